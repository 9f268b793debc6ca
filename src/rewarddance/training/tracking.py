"""What a run writes down: its config, where it ran, one line of metrics a step. Complete without any server."""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rewarddance.core.files import errors_named, write_json_atomic, write_text_atomic

STEP = "optimizer_step"

_PACKAGES = ("rewarddance", "torch", "transformers", "accelerate", "peft", "safetensors", "pillow", "numpy")
_GIT_TIMEOUT_SECONDS = 5


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, each with its `optimizer_step`; readable while the run goes on."""

    def __init__(
        self, path: Path | None, resumed_step: int, copy: Callable[[Mapping[str, object]], None] | None = None
    ) -> None:
        """Open the log to continue after a step.

        Args:
            path: The file, made if it is missing; None for a process that writes nothing.
            resumed_step: Lines of later steps, and a line that a kill cut short, are removed: they will come again.
            copy: Told every line once it is written.
        """
        if path is not None and path.exists():
            write_text_atomic(path, "".join(_lines_up_to(path, resumed_step)))
        self._path = path or Path()
        self._file = None if path is None else path.open("a", encoding="utf-8")
        self._copy = copy

    def write(self, row: Mapping[str, object]) -> None:
        """Add a line and hand it to the operating system at once."""
        if self._file is not None:
            with errors_named(self._path):
                self._file.write(json.dumps(row, allow_nan=False) + "\n")
                self._file.flush()
            if self._copy is not None:
                self._copy(row)

    def sync(self) -> None:
        """Bring the file to the disk: no checkpoint may know of steps that the log has lost."""
        if self._file is not None:
            with errors_named(self._path):
                os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with errors_named(self._path):
                self._file.close()


def write_environment(path: Path, seed: int, processes: int, device: torch.device) -> None:
    """Write which versions, machine, seed and source the run had."""
    write_json_atomic(
        path,
        {
            "versions": {name: _version(name) for name in _PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processes": processes,
            "seed": seed,
            "git_commit": _git_commit(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


@contextmanager
def progress_bar(title: str, total: int, done: int, is_shown: bool) -> Iterator["ProgressBar"]:
    """A bar on standard error for people; silent where nobody looks (no terminal, or not the main process)."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, disable=not (is_shown and console.is_terminal)) as progress:
        task = progress.add_task(title, total=total, completed=done, figures="")
        yield ProgressBar(progress, task)


class ProgressBar:
    """One bar with the latest figures behind it."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, figures: str) -> None:
        """One optimizer step further."""
        self._progress.update(self._task, advance=1, figures=figures)


def _lines_up_to(path: Path, step: int) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if line.endswith("\n") and row[STEP] <= step:
                yield line


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the source tree that runs; None for an installed package or without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
