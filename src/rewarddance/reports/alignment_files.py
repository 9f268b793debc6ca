"""What an alignment run left behind, read back: evaluations at fixed prompts and noise, and the pictures of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarddance.reports.json_files import STEP, finite_number, read_json_lines, read_steps

EVALUATIONS_NAME, SAMPLES_NAME, SAMPLE_PROMPTS_NAME = "evaluations.jsonl", "samples", "prompts.jsonl"
KIND_PREFIX = "kind:"
ROLL_BACK = "roll back"

_STEP_FOLDER = re.compile(r"step-(\d+)")
_PICTURE = re.compile(r"(\d+)-(\d+)\.png")


@dataclass(frozen=True, slots=True)
class AlignmentEvaluation:
    """One look at the policy, on the same prompts and noise as every other.

    Attributes:
        optimizer_step: How many updates the policy had.
        proxy: Mean reward (log-odds) of what it is tuned with.
        proxy_score: The same as a score in [0, 1].
        held_out: Mean reward of each judge that it is not tuned with.
        spread: Standard deviation of the proxy within a prompt.
        saturation: Share of pictures with a proxy score near 1.
        diversity: Distance of the pictures of one prompt from each other.
        statistics: Of the pixels, by name.
        kl: Distance to the reference policy.
        extra: Curves that the caller added, such as gold; `kind:NAME` are figures of one kind of prompt.
        verdict: The guard's: healthy, warning or hacking; None without a guard.
        reason: The verdict in words.
        action: What the guard did, in words; None for nothing.
        best_step: The last checkpoint as good as the best by the held-out judges, as far as the guard knows.
    """

    optimizer_step: int
    proxy: float | None
    proxy_score: float | None
    held_out: Mapping[str, float]
    spread: float | None
    saturation: float | None
    diversity: float | None
    statistics: Mapping[str, float]
    kl: float | None
    extra: Mapping[str, float]
    verdict: str | None
    reason: str
    action: str | None
    best_step: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A stored picture: which prompt, which of the fixed noises, after how many updates."""

    optimizer_step: int
    prompt: int
    seed: int
    path: Path


@dataclass(frozen=True, slots=True)
class AlignmentFiles:
    """Evaluations in order of their step, pictures, and the texts of the pictures' prompts."""

    evaluations: tuple[AlignmentEvaluation, ...]
    samples: tuple[Sample, ...]
    prompts: tuple[str, ...]


def read_alignment(folder: Path) -> AlignmentFiles | None:
    """Read what an alignment run wrote.

    Args:
        folder: A run's folder.

    Returns:
        None when neither evaluations nor pictures are there.

    Raises:
        DataError: A file is damaged.
    """
    path, samples = folder / EVALUATIONS_NAME, folder / SAMPLES_NAME
    if not path.is_file() and not samples.is_dir():
        return None
    by_step = {row.optimizer_step: row for row in map(_evaluation, read_steps(path))}
    return AlignmentFiles(
        evaluations=tuple(by_step[step] for step in sorted(by_step)),
        samples=_samples(samples),
        prompts=tuple(str(row.get("prompt", "")) for row in read_json_lines(samples / SAMPLE_PROMPTS_NAME)),
    )


def _evaluation(row: Mapping[str, Any]) -> AlignmentEvaluation:
    best = finite_number(row.get("best_step"))
    action = str(row.get("action") or "none").replace("_", " ")
    if action == ROLL_BACK and best is not None:
        action = f"{ROLL_BACK} to step {best:.0f}"
    return AlignmentEvaluation(
        optimizer_step=int(row[STEP]),
        proxy=finite_number(row.get("proxy")),
        proxy_score=finite_number(row.get("proxy_score")),
        held_out=_numbers(row.get("held_out")),
        spread=finite_number(row.get("spread")),
        saturation=finite_number(row.get("saturation")),
        diversity=finite_number(row.get("diversity")),
        statistics=_numbers(row.get("statistics")),
        kl=finite_number(row.get("kl")),
        extra=_numbers(row.get("extra")),
        verdict=str(row["verdict"]) if row.get("verdict") else None,
        reason=str(row.get("reason") or ""),
        action=None if action == "none" else action,
        best_step=None if best is None else int(best),
    )


def _samples(folder: Path) -> tuple[Sample, ...]:
    found = []
    for place in sorted(folder.glob("step-*")):
        step = _STEP_FOLDER.fullmatch(place.name)
        for path in sorted(place.glob("*.png")) if step else ():
            picture = _PICTURE.fullmatch(path.name)
            if step and picture:
                found.append(Sample(int(step[1]), int(picture[1]), int(picture[2]), path))
    return tuple(sorted(found, key=lambda sample: (sample.optimizer_step, sample.prompt, sample.seed)))


def _numbers(values: object) -> Mapping[str, float]:
    known = values.items() if isinstance(values, Mapping) else ()
    numbers = {str(name): finite_number(value) for name, value in known}
    return {name: number for name, number in numbers.items() if number is not None}
