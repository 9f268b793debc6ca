"""Rewards of many samples of each prompt as one table, for curves of best-of-n."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewarddance.core.errors import UsageError
from rewarddance.core.media import MediaSource
from rewarddance.core.types import Judgement, JudgementRequest, Status

_SAMPLES_AT_ONCE = 64


@runtime_checkable
class Judge(Protocol):
    """The part of a reward model that is asked here; see `RewardModel.judge`."""

    def judge(self, requests: Sequence[JudgementRequest]) -> list[Judgement]:
        """One judgement a request, in order."""


@dataclass(frozen=True, slots=True)
class SampleFailure:
    """A sample that the judge has nothing to say about.

    Attributes:
        prompt: Place of its prompt.
        sample: Its place among the prompt's samples.
        status: How the judgement ended.
        message: One line.
    """

    prompt: int
    sample: int
    status: Status
    message: str | None


@dataclass(frozen=True, slots=True)
class SampleRewards:
    """What a judge says about the samples of every prompt.

    Attributes:
        log_odds: Rewards; NaN where there is no judgement.
        failures: Why.
    """

    log_odds: Float[ndarray, "prompts samples"]
    failures: tuple[SampleFailure, ...]


def reward_samples(
    model: Judge,
    prompts: Sequence[str],
    samples: Sequence[Sequence[MediaSource]],
    references: Sequence[MediaSource | tuple[MediaSource, ...]] | None = None,
    instruction: str | Path | None = None,
    on_judged: Callable[[int], None] | None = None,
) -> SampleRewards:
    """Ask a judge about every sample.

    Args:
        model: A reward model, in process or behind a service.
        prompts: At least one.
        samples: As many for each prompt.
        references: What the samples of each prompt are judged against, none of them a sample; None for a judge that
            needs none. All samples of a prompt meet the same, or their rewards could not be compared.
        instruction: Name or file of criteria; None for the model's own.
        on_judged: Called with the number of samples that are done.

    Raises:
        UsageError: Counts that do not match.
    """
    count = len(samples[0]) if samples else 0
    is_square = len(samples) == len(prompts) and all(len(own) == count for own in samples)
    if not count or not is_square or (references is not None and len(references) != len(prompts)):
        raise UsageError("give as many samples for each prompt, at least one, and if any, references for each")
    requests = [
        JudgementRequest(prompt, sample, None if references is None else references[place], instruction)
        for place, (prompt, own) in enumerate(zip(prompts, samples, strict=True))
        for sample in own
    ]
    judgements: list[Judgement] = []
    for start in range(0, len(requests), _SAMPLES_AT_ONCE):
        judgements += model.judge(requests[start : start + _SAMPLES_AT_ONCE])
        if on_judged is not None:
            on_judged(len(judgements))
    if len(judgements) != len(requests):
        raise UsageError(
            f"the judge gave {len(judgements)} judgements to {len(requests)} requests; it must give one each"
        )
    failures = tuple(
        SampleFailure(*divmod(place, count), judgement.status, judgement.message)
        for place, judgement in enumerate(judgements)
        if judgement.reward is None
    )
    rewards = [np.nan if judgement.reward is None else judgement.reward for judgement in judgements]
    return SampleRewards(np.array(rewards, dtype=float).reshape(len(prompts), count), failures)
