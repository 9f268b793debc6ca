"""A run's folder: who may write to it, and what stands where."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from rewarddance.config.loader import dump_config
from rewarddance.core.errors import UsageError
from rewarddance.core.files import sync_folder, sync_tree, write_text_atomic
from rewarddance.training.pause_points import reached

_FREE_TO_CHANGE = {
    "out",
    "keep_checkpoints",
    "save_every",
    "data.workers",
    "model.gradient_checkpointing",
    "generator.gradient_checkpointing",
}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names inside a run directory."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, machine, seed."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One line a step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Everything needed to resume."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The finished reward model."""
        return self.path / "model"

    @property
    def generator(self) -> Path:
        """The finished generator."""
        return self.path / "generator"

    @property
    def evaluations(self) -> Path:
        """One line an evaluation of the policy."""
        return self.path / "evaluations.jsonl"

    @property
    def observations(self) -> Path:
        """What a guard needs to judge the run again, one line an evaluation."""
        return self.path / "observations.jsonl"

    @property
    def samples(self) -> Path:
        """Pictures of fixed prompts and noise, a folder a step."""
        return self.path / "samples"

    @property
    def adapter(self) -> Path:
        """The finished adapters alone, when there are any."""
        return self.path / "adapter"

    def nonfinite_batch(self, rank: int) -> Path:
        """Records of the batch whose loss was not finite; one file a process."""
        return self.path / ("nonfinite_batch.json" if rank == 0 else f"nonfinite_batch_{rank}.json")

    def check(self, config: BaseModel, resume: bool) -> None:
        """Whether a run with this config may write here; writes nothing.

        Raises:
            UsageError: It holds a run already and `resume` was not asked for, or the run to resume had another config.
        """
        if not self.config.exists():
            return
        if not resume:
            raise UsageError(f"{self.path} holds a run already; resume it with --resume, or give another `out`")
        changed = _changed(yaml.safe_load(self.config.read_text(encoding="utf-8")), config.model_dump(mode="json"))
        if changed:
            raise UsageError(
                f"cannot resume {self.path} with another {', '.join(changed)}; "
                "give the values of its config.yaml, or another `out`"
            )

    def claim(self, config: BaseModel) -> None:
        """Make the folder this run's: write the resolved config."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text_atomic(self.config, dump_config(config))


def replace_folder(final: Path, write: Callable[[Path], None]) -> None:
    """Write a folder whole or not at all, in place of one that is there.

    Args:
        final: The name that it gets once it is complete and on the disk.
        write: Fills the empty folder that it is given.
    """
    staged = final.with_name(f".staged-{final.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    write(staged)
    sync_tree(staged)
    reached(f"{final.name}:written")
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    sync_folder(final.parent)


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    old, new = _flat(before), _flat(now)
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and key not in _FREE_TO_CHANGE)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
