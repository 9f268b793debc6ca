"""A run's folder: who may write to it, and what stands where."""

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from rewarddance.config.loader import dump_config
from rewarddance.core.errors import CheckpointError, UsageError
from rewarddance.core.files import sync_folder, sync_tree, write_json_atomic, write_text_atomic
from rewarddance.training.checkpoints import has_checkpoint
from rewarddance.training.pause_points import reached
from rewarddance.training.run_places import refuse_foreign_files, refuse_inputs_in_the_way, setting_of

_SERVICES = ("rewards[].service.", "judges[].service.")
"""Where and how a reward or a judge is asked may change as `_NOTED` does."""

_HOW_PATIENTLY = ("api_key_env", "concurrency", "tries", "deadline_seconds", "parity", "parity_limit")

_FREE_TO_CHANGE = {
    "out",
    "keep_checkpoints",
    "save_every",
    "mirrors",
    "sample_prompts",
    "evaluation_batch_size",
    "data.workers",
    "model.gradient_checkpointing",
    "generator.gradient_checkpointing",
    "reward_patience.deadline_seconds",
    "reward_patience.tries",
    *(f"{service}{name}" for service in _SERVICES for name in _HOW_PATIENTLY),
}
_SAMPLE_PREFIX = "step-"
_SIZE_OF_A_STEP = ("batch_size", "gradient_accumulation")
_NOTED = {
    "optimizer.learning_rate",
    "optimizer.max_gradient_norm",
    "precision",
    *_SIZE_OF_A_STEP,
}
"""May change, and then the run is no longer that of one config: `changes.jsonl` says from which step on."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Change:
    key: str
    before: Any
    now: Any

    @property
    def setting(self) -> str:
        """The key as the docs write it."""
        return setting_of(self.key)

    @property
    def is_free(self) -> bool:
        return self.setting in _FREE_TO_CHANGE

    @property
    def is_noted(self) -> bool:
        return self.setting in _NOTED or (self.setting.startswith(_SERVICES) and not self.is_free)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names inside a run directory."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def changes(self) -> Path:
        """Settings that a resumed run changed, one a line, with the optimizer step from which on they hold."""
        return self.path / "changes.jsonl"

    @property
    def inputs(self) -> Path:
        """Digests of what stands behind the names in the config."""
        return self.path / "inputs.json"

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

    @property
    def references(self) -> Path:
        """Reference images that the policy made on its way."""
        return self.path / "references"

    def nonfinite_batch(self, rank: int) -> Path:
        """Records of the batch whose loss was not finite; one file a process."""
        return self.path / ("nonfinite_batch.json" if rank == 0 else f"nonfinite_batch_{rank}.json")

    def sample(self, optimizer_step: int) -> Path:
        """Pictures of one moment."""
        return self.samples / f"{_SAMPLE_PREFIX}{optimizer_step:08d}"

    def forget_samples_after(self, optimizer_step: int) -> None:
        """Drop the pictures of later moments: a run that goes on from here makes them again, or never comes there."""
        for folder in self.samples.glob(f"{_SAMPLE_PREFIX}*"):
            if folder.name > self.sample(optimizer_step).name:
                shutil.rmtree(folder)

    def is_changed(self, config: BaseModel) -> bool:
        """Whether a resumed run with this config would do other updates than the one that wrote here."""
        changes = _changed(self._stored(config), config.model_dump(mode="json")) if self.config.exists() else []
        return any(change.is_noted for change in changes)

    def check(self, config: BaseModel, resume: bool) -> None:
        """Whether a run with this config may write here; writes nothing.

        Raises:
            UsageError: It holds a run already and `resume` was not asked for, or the run to resume had another config,
                or the run would write over what is not its own or what it reads.
        """
        self.check_places(config)
        if not self.config.exists():
            return
        if not resume:
            raise UsageError(f"{self.path} holds a run already; resume it with --resume, or give another `out`")
        stored, given = self._stored(config), config.model_dump(mode="json")
        fixed = () if _pictures(stored) == _pictures(given) else _SIZE_OF_A_STEP
        refused = [
            change.key
            for change in _changed(stored, given)
            if change.key in fixed or not (change.is_free or change.is_noted)
        ]
        if refused:
            raise UsageError(
                f"cannot resume {self.path} with another {', '.join(refused)}; "
                "give the values of its config.yaml, or another `out`"
            )

    def check_inputs(self, digests: Mapping[str, str]) -> None:
        """Whether a resumed run reads what the run has read so far; without a checkpoint, it begins with what there is.

        Args:
            digests: By dotted key of the config; what is known on one side only is not compared.

        Raises:
            UsageError: Something has changed.
        """
        if not has_checkpoint(self.checkpoints):
            return
        known = self._stored_inputs()
        if known is None:
            _log.warning("%s has no %s: changes before this start go unnoticed", self.path, self.inputs.name)
            return
        if changed := [key for key, digest in digests.items() if known.get(key, digest) != digest]:
            raise UsageError(
                f"cannot resume {self.path}: what {', '.join(changed)} names is not what the run has read so far; "
                "put back what was there, or begin anew with another `out`"
            )

    def check_places(self, config: BaseModel) -> None:
        """Whether a run with this config, new or resumed, would write over anything that is not its own.

        Raises:
            UsageError: It would.
        """
        refuse_inputs_in_the_way(self.path, config, _flat(config.model_dump(mode="json")))
        if not self.config.exists():
            refuse_foreign_files(self.path, config)

    def claim(self, config: BaseModel, optimizer_step: int = 0, digests: Mapping[str, str] | None = None) -> None:
        """Make the folder this run's: write the resolved config, and note what it changes in a run that goes on.

        Args:
            config: Passed `check`.
            optimizer_step: After which the run goes on.
            digests: Of what the run reads, which passed `check_inputs`; None for a run that keeps none.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self.config.exists():
            self._note(_changed(self._stored(config), config.model_dump(mode="json")), optimizer_step)
        write_text_atomic(self.config, dump_config(config))
        if digests is not None:
            write_json_atomic(self.inputs, {**(self._stored_inputs() or {}), **digests})

    def _stored_inputs(self) -> dict[str, str] | None:
        """None where an earlier version has kept none, or they are damaged."""
        try:
            stored = json.loads(self.inputs.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = None
        return stored if isinstance(stored, dict) else None

    def _stored(self, config: BaseModel) -> dict[str, Any]:
        """The config of the run that is here; a key that came later than the run has its default.

        Args:
            config: Of the same kind.

        Raises:
            UsageError: It is damaged.
        """
        try:
            stored = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError):
            stored = None
        if not isinstance(stored, dict):
            raise UsageError(
                f"{self.config} is not the config of a run: it is empty or damaged; "
                "put back what the run was begun with, or give another `out`"
            )
        try:
            return type(config).model_validate(stored).model_dump(mode="json")
        except ValidationError:
            return stored  # what no longer is a config is named key by key

    def _note(self, changes: Sequence[_Change], optimizer_step: int) -> None:
        lines = self.changes.read_text(encoding="utf-8").splitlines() if self.changes.exists() else []
        for change in changes:
            if change.is_noted:
                row = {"optimizer_step": optimizer_step, "key": change.key, "before": change.before, "now": change.now}
                lines.append(json.dumps(row))
                told = (change.key, change.now, change.before, optimizer_step)
                _log.warning("%s is %s instead of %s after optimizer step %d", *told)
        if lines:
            write_text_atomic(self.changes, "".join(f"{line}\n" for line in lines))


def replace_folder(final: Path, write: Callable[[Path], None]) -> None:
    """Write a folder whole or not at all, in place of one that is there.

    Args:
        final: The name that it gets once it is complete and on the disk.
        write: Fills the empty folder that it is given.

    Raises:
        CheckpointError: The disk is full or cannot be written to. What was there is as it was.
    """
    staged = final.with_name(f".staged-{final.name}")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        staged.mkdir(parents=True)
        write(staged)
        sync_tree(staged)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise CheckpointError(
            f"{final} could not be written ({error}); the checkpoints are intact: make room and continue the run"
        ) from error
    reached(f"{final.name}:written")
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    sync_folder(final.parent)


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[_Change]:
    old, new = _flat(before), _flat(now)
    changes = (_Change(key, old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()))
    return [change for change in changes if change.before != change.now]


def _pictures(tree: dict[str, Any]) -> int:
    """Pictures or comparisons of one optimizer step."""
    sizes = (tree.get(key, 1) for key in _SIZE_OF_A_STEP)
    return math.prod(size if isinstance(size, int) else 0 for size in sizes)


def _flat(tree: dict[str, Any] | list[Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict | list) else {name: value}
    return flat
