"""Copies of a run's figures and pictures for TensorBoard or Weights & Biases, for those who ask for them.

The run folder is the source: a mirror that fails is left behind with one line, and the run goes on.
"""

import logging
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel

from rewarddance.config.mirrors import MirrorName
from rewarddance.core.errors import UsageError
from rewarddance.core.files import write_text_atomic
from rewarddance.core.media import load_image
from rewarddance.training.tracking import STEP

_TENSORBOARD, _WANDB_ID = "tensorboard", "wandb_run_id"
_PROJECT_VARIABLE, _PROJECT = "WANDB_PROJECT", "rewarddance"

_log = logging.getLogger(__name__)


@runtime_checkable
class Mirror(Protocol):
    """One tracker, open for one run."""

    def figures(self, optimizer_step: int, figures: Mapping[str, float]) -> None:
        """Show figures by name, such as `train/loss`."""

    def pictures(self, optimizer_step: int, pictures: Mapping[str, Path]) -> None:
        """Show stored pictures by name, such as `samples/0-1`."""


class Mirrors:
    """All trackers of a run."""

    def __init__(self, mirrors: Mapping[str, Mirror]) -> None:
        self._mirrors = dict(mirrors)

    def copy(self, group: str, row: Mapping[str, object], pictures_of: Callable[[int], Path] | None = None) -> None:
        """Show one line of a log.

        Args:
            group: Stands before every name.
            row: With its `optimizer_step`; numbers are shown, also those within, and nothing else.
            pictures_of: Folder of the PNG files of a step, shown where there are any.
        """
        step = row[STEP]
        assert isinstance(step, int)
        figures = dict(_numbers(group, {name: value for name, value in row.items() if name != STEP}))
        self._each(lambda mirror: mirror.figures(step, figures))
        files = () if pictures_of is None else sorted(pictures_of(step).glob("*.png"))
        found = {f"samples/{file.stem}": file for file in files}
        if found:
            self._each(lambda mirror: mirror.pictures(step, found))

    def _each(self, show: Callable[[Mirror], None]) -> None:
        for name, mirror in tuple(self._mirrors.items()):
            try:
                show(mirror)
            except (OSError, RuntimeError) as error:
                _log.warning("%s gets no more figures of this run: %s", name, error)
                del self._mirrors[name]


def require_mirrors(names: Sequence[MirrorName]) -> None:
    """Stop before anything is loaded if a tracker is not installed.

    Raises:
        UsageError: One is not.
    """
    for name in names:
        if find_spec(name) is None:
            raise UsageError(f"mirrors names {name}, which is not installed: pip install 'rewarddance[track]'")


@contextmanager
def open_mirrors(names: Sequence[MirrorName], folder: Path, resumed_step: int, config: BaseModel) -> Iterator[Mirrors]:
    """The trackers of a run, closed at its end.

    Args:
        names: Which; none in a process that writes nothing.
        folder: Of the run; its name is the run's name there.
        resumed_step: What was shown of later steps is taken back where the tracker can do that.
        config: Shown beside the figures.

    Raises:
        UsageError: A tracker cannot be used, such as Weights & Biases without being logged in.
    """
    with ExitStack() as stack:
        opened: dict[str, Mirror] = {
            name: stack.enter_context(_OPENERS[name](folder, resumed_step, config)) for name in names
        }
        yield Mirrors(opened)


@contextmanager
def _tensorboard(folder: Path, resumed_step: int, config: BaseModel) -> Iterator[Mirror]:
    from torch.utils.tensorboard import SummaryWriter

    # Steps behind a checkpoint come again after a kill.
    writer = SummaryWriter(str(folder / _TENSORBOARD), purge_step=resumed_step + 1)
    writer.add_text("config", f"```json\n{config.model_dump_json(indent=2)}\n```")
    try:
        yield _TensorBoard(writer)
    finally:
        writer.close()


@contextmanager
def _wandb(folder: Path, resumed_step: int, config: BaseModel) -> Iterator[Mirror]:
    import wandb

    kept = folder / _WANDB_ID
    if not kept.exists():
        write_text_atomic(kept, secrets.token_hex(4))
    try:
        run = wandb.init(
            project=os.environ.get(_PROJECT_VARIABLE, _PROJECT),
            name=folder.resolve().name,
            id=kept.read_text(encoding="utf-8"),
            resume="allow",
            dir=folder,
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(console="off", silent=True),
        )
    except (wandb.Error, OSError) as error:
        raise UsageError(
            f"wandb could not be started ({error}); log in with `wandb login`, set WANDB_MODE=offline, "
            "or leave it out of mirrors"
        ) from error
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    try:
        yield _Wandb(run)
    finally:
        run.finish()


_OPENERS = {"tensorboard": _tensorboard, "wandb": _wandb}


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def figures(self, optimizer_step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, optimizer_step)
        self._writer.flush()

    def pictures(self, optimizer_step: int, pictures: Mapping[str, Path]) -> None:
        for name, file in pictures.items():
            self._writer.add_image(name, np.asarray(load_image(file)), optimizer_step, dataformats="HWC")
        self._writer.flush()


class _Wandb:
    """Figures carry their optimizer step as a figure: steps of wandb's own never go back, and a resumed run does."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def figures(self, optimizer_step: int, figures: Mapping[str, float]) -> None:
        self._log({STEP: optimizer_step, **figures})

    def pictures(self, optimizer_step: int, pictures: Mapping[str, Path]) -> None:
        import wandb

        self._log({STEP: optimizer_step, **{name: wandb.Image(str(file)) for name, file in pictures.items()}})

    def _log(self, row: Mapping[str, Any]) -> None:
        import wandb

        try:
            self._run.log(row)
        except wandb.Error as error:
            raise RuntimeError(str(error)) from error


def _numbers(name: str, value: object) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{name}/{key}", inner)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield name, float(value)
