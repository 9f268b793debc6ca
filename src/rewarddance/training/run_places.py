"""Which names of its folder a run writes, and whether it may: nothing that is there already is lost to a run."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewarddance.config.alignment import AlignConfig
from rewarddance.core.errors import UsageError

_ALWAYS = ("checkpoints", "metrics.jsonl", "environment.json", "changes.jsonl", "adapter")
_OF_ALIGNMENT = ("inputs.json", "generator", "evaluations.jsonl", "observations.jsonl", "samples", "report.html")
_OF_LEARNING = ("model", "teacher_answers.jsonl")
_OF_MIRRORS = ("tensorboard", "wandb", "wandb_run_id")

_READ = {
    "generator.path",
    "generator.adapter",
    "rewards[].model",
    "rewards[].adapter",
    "rewards[].instruction",
    "rewards[].service.parity",
    "judges[].model",
    "judges[].adapter",
    "judges[].instruction",
    "judges[].service.parity",
    "prompts.train",
    "prompts.held_out",
    "references.folder",
    "regulariser.pretraining_data",
    "model.base",
    "model.instruction",
    "data.train",
    "data.evaluation",
    "distillation.teacher",
}
"""Settings that name what a run reads."""

_NO_PLACES = {("regulariser.pretraining_data", "references")}
"""Settings with values that are words and no names of files."""


def refuse_foreign_files(folder: Path, config: object) -> None:
    """Stop a new run before it takes the place of something that another made.

    Args:
        folder: Of the run, without a `config.yaml`: nothing in it is the run's own.
        config: Of the run.

    Raises:
        UsageError: A name that the run writes is there already.
    """
    found = [name for name in _written(config) if os.path.lexists(folder / name)]
    if found:
        raise UsageError(
            f"{folder} has no config.yaml of a run, but holds {', '.join(found)}, which a run would replace; "
            "move that away, or give another `out`"
        )


def refuse_inputs_in_the_way(folder: Path, config: object, values: Mapping[str, Any]) -> None:
    """Stop a run that would overwrite what it reads.

    Args:
        folder: Of the run.
        config: Of the run.
        values: Of the config, by dotted key.

    Raises:
        UsageError: A model or data lies where the run writes.
    """
    places = [(folder / name).resolve() for name in _written(config)]
    for key, value in values.items():
        if setting_of(key) not in _READ or value is None or (key, value) in _NO_PLACES:
            continue
        path = Path(str(value)).expanduser().resolve()
        place = next((place for place in places if path.is_relative_to(place)), None)
        if place is not None and path.exists():
            raise UsageError(
                f"{key} is {value}, which lies in {place}, and the run writes there; "
                "copy it to another place, or give another `out`"
            )


def setting_of(key: str) -> str:
    """A dotted key as the docs write it: `rewards[].weight`."""
    return re.sub(r"\.\d+(?=\.|$)", "[]", key)


def _written(config: object) -> tuple[str, ...]:
    always = (*_ALWAYS, *_OF_MIRRORS) if getattr(config, "mirrors", ()) else _ALWAYS
    if not isinstance(config, AlignConfig):
        return (*always, *_OF_LEARNING)
    return (*always, *_OF_ALIGNMENT, *(("references",) if config.makes_references else ()))
