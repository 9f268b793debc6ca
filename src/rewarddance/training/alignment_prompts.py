"""Prompts of an alignment run: those to learn on, and those of its evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rewarddance.config.alignment import AlignConfig
from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.seeding import numpy_rng
from rewarddance.data.prompts import PromptItem, read_prompts
from rewarddance.generators.prompt_limits import refused_prompts


def training_prompts(config: AlignConfig) -> tuple[str, ...]:
    """Prompts to learn on, each once.

    Raises:
        DataError: The list cannot be used, or the generator cannot read a prompt.
    """
    return tuple(dict.fromkeys(item.prompt for item in _readable(config, config.prompts.train)))


def evaluation_prompts(config: AlignConfig, training: Sequence[str]) -> tuple[str, ...]:
    """A seeded choice of the held-out prompts, or of those that are learned on where none are held out.

    Raises:
        DataError: The list cannot be used.
        UsageError: The guard, which compares prompts, would see one alone.
    """
    prompts = training if config.prompts.held_out is None else tuple(_evaluated(config))
    if config.guard is not None and len(prompts) < 2:
        raise UsageError(f"{config.prompts.evaluated} has one prompt, and the guard needs at least two")
    order = numpy_rng(config.seed, "evaluation prompts").permutation(len(prompts))
    return tuple(prompts[place] for place in sorted(order[: config.evaluation_prompts].tolist()))


def prompt_kinds(config: AlignConfig) -> Mapping[str, str]:
    """Kinds of the prompts of evaluations, of those whose list names one.

    Raises:
        DataError: The list cannot be used.
    """
    return {prompt: kind for prompt, kind in _evaluated(config).items() if kind is not None}


def _evaluated(config: AlignConfig) -> dict[str, str | None]:
    """The prompts that evaluations choose from, with their kinds; the first kind counts where one stands twice."""
    kinds: dict[str, str | None] = {}
    for item in _readable(config, config.prompts.evaluated):
        kinds.setdefault(item.prompt, item.kind)
    return kinds


def _readable(config: AlignConfig, path: Path) -> tuple[PromptItem, ...]:
    """A list of prompts, all of which the generator can read."""
    items = read_prompts(path)
    refused = refused_prompts(config.generator.path, (item.prompt for item in items))
    first = next((item for item in items if item.prompt in refused), None)
    if first is not None:
        raise DataError(f"{path}: {first.place}: {refused[first.prompt]}")
    return items
