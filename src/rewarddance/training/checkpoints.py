"""Checkpoints that are either complete or not used, whatever moment the process dies.

A checkpoint is written into a folder whose name starts with a dot; every file is brought to the disk, then the
manifest with their hashes, and only then the folder takes its real name. Reading checks every hash: a truncated
file, a flipped bit (which safetensors loads without a word) or a missing file rejects the checkpoint, and the one
before it is used. Tensors are safetensors, everything else JSON; nothing can run code.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run has got.

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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes:
        folder: Where it is.
        progress: What it holds.
    """

    folder: Path
    progress: RunProgress

    def weights(self) -> dict[str, Tensor]:
        """Everything that training changes, by parameter name, on the CPU."""
        return safetensors.torch.load_file(self.folder / _WEIGHTS)

    def optimizer(self) -> dict[str, Tensor]:
        """The optimizer's moments and counters, by parameter name, on the CPU."""
        return safetensors.torch.load_file(self.folder / _OPTIMIZER)


def save_checkpoint(
    folder: Path,
    progress: RunProgress,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    keep: int = 2,
) -> Checkpoint:
    """Write a checkpoint as a whole, then remove those that are neither among the newest nor the best.

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
    _retire(folder, keep, progress.best_step)
    reached("checkpoint:retired")
    return Checkpoint(final, progress)


def latest_complete(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose every file is as it was written; says in one line why a newer one is not used.

    Raises:
        CheckpointError: There are checkpoints, and not one of them is complete.
    """
    names = _newest_first(folder)
    for path in names:
        if (checkpoint := _read(path)) is not None:
            return checkpoint
    if names:
        raise CheckpointError(
            f"none of the {len(names)} checkpoints in {folder} is complete; remove that folder to start again"
        )
    return None


def best_complete(folder: Path) -> Checkpoint | None:
    """The complete checkpoint with the highest held-out accuracy, the earliest of equals; None if none was measured."""
    measured = [
        checkpoint
        for path in reversed(_newest_first(folder))
        if (checkpoint := _read(path)) is not None and checkpoint.progress.accuracy is not None
    ]
    return max(measured, key=lambda checkpoint: checkpoint.progress.accuracy or 0.0, default=None)


def tidy(folder: Path, resumed: Checkpoint | None) -> None:
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


def _write(staged: Path, progress: RunProgress, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
    safetensors.torch.save_file(dict(weights), staged / _WEIGHTS)
    reached("checkpoint:weights-written")
    safetensors.torch.save_file(dict(optimizer), staged / _OPTIMIZER)
    reached("checkpoint:optimizer-written")
    write_json_atomic(staged / _PROGRESS, asdict(progress))
    reached("checkpoint:progress-written")
    write_manifest(staged)
    reached("checkpoint:manifest-written")


def _read(folder: Path) -> Checkpoint | None:
    problems = verify_manifest(folder)
    if problems:
        _log.warning("checkpoint %s is not used: %s", folder, "; ".join(problems))
        return None
    return Checkpoint(folder, RunProgress(**json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))))


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob(f"{_PREFIX}*") if path.is_dir()), reverse=True)


def _retire(folder: Path, keep: int, best_step: int | None) -> None:
    for path in _newest_first(folder)[max(keep, 2) :]:
        if best_step is not None and path.name == f"{_PREFIX}{best_step:08d}":
            continue
        # Renamed before it is emptied: a kill in between must not leave a half-deleted checkpoint under a real name.
        leftover = folder / f"{_STAGED_PREFIX}{path.name}"
        shutil.rmtree(leftover, ignore_errors=True)
        path.rename(leftover)
        reached("checkpoint:retiring")
        shutil.rmtree(leftover)
