"""Checkpoints that are either complete or not used, whatever moment the process dies.

A checkpoint is written into a folder whose name starts with a dot; every file is brought to the disk, then the
manifest with their hashes, and only then the folder takes its real name. Reading checks every hash: a truncated
file, a flipped bit (which safetensors loads without a word) or a missing file rejects the checkpoint, and the one
before it is used. Tensors are safetensors, everything else JSON; nothing can run code.
"""

import json
import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from rewarddance.core.errors import CheckpointError
from rewarddance.core.files import sync_folder, verify_manifest, write_json_atomic, write_manifest
from rewarddance.training.pause_points import reached

_PREFIX = "step-"
_STAGED_PREFIX = ".staged-"
_REJECTED_PREFIX = "rejected-"
_WEIGHTS, _OPTIMIZER, _PROGRESS = "weights.safetensors", "optimizer.safetensors", "progress.json"

_log = logging.getLogger(__name__)


@runtime_checkable
class Progress(Protocol):
    """How far a run has got: a dataclass of JSON values, stored in the checkpoint and read back from it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def optimizer_step(self) -> int:
        """Updates made so far; names the checkpoint."""

    @property
    def kept_steps(self) -> Collection[int]:
        """Steps whose checkpoints stay on disk however old they are."""


AnyProgress = TypeVar("AnyProgress", bound=Progress)


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far the training of a reward model has got.

    Attributes:
        optimizer_step: Updates made so far.
        accuracy: Held-out accuracy measured at this very step, if it was.
        best_accuracy: Highest held-out accuracy so far.
        best_step: When that was.
        comparisons_sha256: Digest of the comparisons that the run learns from.
        order_sha256: Chained digest of what has been shown so far, and in which order of the media: equal for two runs
            only if they have seen the same data in the same order.
        processes: How many processes share the run; a resumed run needs as many.
    """

    optimizer_step: int = 0
    accuracy: float | None = None
    best_accuracy: float | None = None
    best_step: int | None = None
    comparisons_sha256: str = ""
    order_sha256: str = ""
    processes: int = 1

    @property
    def kept_steps(self) -> Collection[int]:
        """The best one."""
        return () if self.best_step is None else (self.best_step,)


@dataclass(frozen=True, slots=True)
class Checkpoint(Generic[AnyProgress]):
    """A complete checkpoint on disk.

    Attributes:
        folder: Where it is.
        progress: What it holds.
    """

    folder: Path
    progress: AnyProgress

    def weights(self) -> dict[str, Tensor]:
        """Everything that training changes, by parameter name, on the CPU."""
        return safetensors.torch.load_file(self.folder / _WEIGHTS)

    def optimizer(self) -> dict[str, Tensor]:
        """The optimizer's moments and counters, by parameter name, on the CPU."""
        return safetensors.torch.load_file(self.folder / _OPTIMIZER)


def save_checkpoint(
    folder: Path,
    progress: AnyProgress,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    keep: int = 2,
) -> Checkpoint[AnyProgress]:
    """Write a checkpoint as a whole, then remove those that are neither among the newest nor to be kept.

    Args:
        folder: The run's `checkpoints/`; made if it is missing.
        progress: How far the run has got; names the checkpoint.
        weights: Everything that training changes.
        optimizer: The optimizer's moments and counters.
        keep: How many of the newest stay; at least 2, so that a damaged one costs little.

    Raises:
        CheckpointError: The disk is full or cannot be written to. Earlier checkpoints are as they were.
    """
    reached("checkpoint:started")
    final = folder / f"{_PREFIX}{progress.optimizer_step:08d}"
    staged = folder / f"{_STAGED_PREFIX}{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        _write(staged, progress, weights, optimizer)
        if final.exists():  # only a rejected one can stand here: a complete one would have been resumed from
            shutil.rmtree(final)
        staged.rename(final)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint of optimizer step {progress.optimizer_step} could not be written to {folder} ({error}); "
            "earlier checkpoints are intact: make room and resume"
        ) from error
    reached("checkpoint:renamed")
    _retire(folder, keep, progress.kept_steps)
    reached("checkpoint:retired")
    return Checkpoint(final, progress)


def latest_complete(folder: Path) -> Checkpoint[RunProgress] | None:
    """The newest checkpoint of a reward model's training; see `newest_complete`."""
    return newest_complete(folder, RunProgress)


def newest_complete(folder: Path, kind: Callable[..., AnyProgress]) -> Checkpoint[AnyProgress] | None:
    """The newest checkpoint whose every file is as it was written; says in one line why a newer one is not used.

    Args:
        folder: The run's `checkpoints/`.
        kind: What its progress is.

    Raises:
        CheckpointError: There are checkpoints, and not one of them is complete.
    """
    names = _newest_first(folder)
    for path in names:
        if (checkpoint := _read(path, kind)) is not None:
            return checkpoint
    if names:
        raise CheckpointError(
            f"none of the {len(names)} checkpoints in {folder} is complete; remove that folder to start again"
        )
    return None


def complete_at(folder: Path, optimizer_step: int, kind: Callable[..., AnyProgress]) -> Checkpoint[AnyProgress] | None:
    """The checkpoint of one step; None if it is not there or not complete."""
    path = folder / f"{_PREFIX}{optimizer_step:08d}"
    return _read(path, kind) if path.is_dir() else None


def has_checkpoint(folder: Path) -> bool:
    """Whether a run that goes on does so from somewhere; whether it is complete, nobody has looked."""
    return bool(_newest_first(folder))


def best_complete(folder: Path) -> Checkpoint[RunProgress] | None:
    """The complete checkpoint with the highest held-out accuracy, the earliest of equals; None if none was measured."""
    measured = [
        checkpoint
        for path in reversed(_newest_first(folder))
        if (checkpoint := _read(path, RunProgress)) is not None and checkpoint.progress.accuracy is not None
    ]
    return max(measured, key=lambda checkpoint: checkpoint.progress.accuracy or 0.0, default=None)


def tidy(folder: Path, resumed: Checkpoint[Any] | None) -> None:
    """Clear what a killed process left: half-written folders go, checkpoints newer than the resumed one step aside.

    Those are the rejected ones. They keep their files under another name, and no longer count as "newest".

    Args:
        folder: The run's `checkpoints/`.
        resumed: Where the run continues; None for the very beginning.
    """
    for leftover in folder.glob(f"{_STAGED_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for path in _newest_first(folder):
        if resumed is None or path.name > resumed.folder.name:
            aside = folder / f"{_REJECTED_PREFIX}{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def _write(staged: Path, progress: Progress, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
    safetensors.torch.save_file(dict(weights), staged / _WEIGHTS)
    reached("checkpoint:weights-written")
    safetensors.torch.save_file(dict(optimizer), staged / _OPTIMIZER)
    reached("checkpoint:optimizer-written")
    write_json_atomic(staged / _PROGRESS, asdict(progress))
    reached("checkpoint:progress-written")
    write_manifest(staged)
    reached("checkpoint:manifest-written")


def _read(folder: Path, kind: Callable[..., AnyProgress]) -> Checkpoint[AnyProgress] | None:
    problems = verify_manifest(folder)
    if problems:
        _log.warning("checkpoint %s is not used: %s", folder, "; ".join(problems))
        return None
    stored = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
    return Checkpoint(folder, kind(**stored))


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob(f"{_PREFIX}*") if path.is_dir()), reverse=True)


def _retire(folder: Path, keep: int, kept_steps: Collection[int]) -> None:
    kept = {f"{_PREFIX}{step:08d}" for step in kept_steps}
    for path in _newest_first(folder)[max(keep, 2) :]:
        if path.name in kept:
            continue
        # Renamed before it is emptied: a kill in between must not leave a half-deleted checkpoint under a real name.
        leftover = folder / f"{_STAGED_PREFIX}{path.name}"
        shutil.rmtree(leftover, ignore_errors=True)
        path.rename(leftover)
        reached("checkpoint:retiring")
        shutil.rmtree(leftover)
