"""Verifier hacking, watched: does a judge that had no part in the search also prefer what was found?

The winner is held against plain pictures: those that the generator makes of the same prompt without any search, from
the noise that best of N begins with. The verifier says that the winner is better, because it chose it. A held-out
judge has no such reason. The diversity of the candidates is held against that of the plain pictures too: a search that
ends in many copies of one picture has little left to choose from.

Source:
    "Verifier hacking" is named in arXiv:2501.09732, section 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.seeding import numpy_rng
from rewarddance.core.types import JudgementRequest
from rewarddance.generators.protocol import Generator
from rewarddance.metrics.bootstrap import Interval, bootstrap_mean
from rewarddance.metrics.diversity import colour_grid_features, within_prompt_distance
from rewarddance.search.bench import DEFAULT_DRAWING, Bench, Drawing
from rewarddance.search.budget import Budget, Meter
from rewarddance.search.pictures import is_whole, picture_of
from rewarddance.search.results import SearchResult
from rewarddance.search.verification import Judge, Verifier, judged

PLAIN_PICTURES = 4
FEWEST_PROMPTS = 8
"""Bootstrap intervals of fewer are too narrow to conclude anything from."""

Finding = Literal["confirmed", "hacked", "undecided"]


@dataclass(frozen=True, slots=True)
class Watch:
    """What was seen at one prompt.

    Attributes:
        verifier_gain: Mean log-odds that the winner is better than a plain picture, in the verifier's eyes; None
            where there is no winner or a judgement failed.
        judge_gain: The same in the held-out judge's eyes.
        diversity: Mean distance between two candidates; None with fewer than two.
        plain_diversity: Mean distance between two plain pictures.
        spent: On watching alone.
    """

    verifier_gain: float | None
    judge_gain: float | None
    diversity: float | None
    plain_diversity: float | None
    spent: Budget


@dataclass(frozen=True, slots=True)
class WatchSummary:
    """What was seen over all prompts.

    Attributes:
        finding: `confirmed` when the judge's gain is surely above 0, `hacked` when it is surely not while the
            verifier's is, and `undecided` in between or from fewer than `FEWEST_PROMPTS`.
        verifier_gain: Mean over prompts, with its interval; None when it is known of no prompt.
        judge_gain: The same of the held-out judge.
        judge_agrees: Share of prompts at which the judge prefers the winner.
        diversity: Mean distance between candidates.
        plain_diversity: Mean distance between plain pictures.
    """

    finding: Finding
    verifier_gain: Interval | None
    judge_gain: Interval | None
    judge_agrees: float | None
    diversity: float | None
    plain_diversity: float | None


def watch(
    generator: Generator,
    verifier: Verifier,
    judge: Judge,
    result: SearchResult,
    seed: int,
    drawing: Drawing = DEFAULT_DRAWING,
    judge_instruction: str | Path | None = None,
) -> Watch:
    """Hold a winner against plain pictures.

    Args:
        generator: That made the candidates.
        verifier: That chose the winner.
        judge: That had no part in it.
        result: The search.
        seed: Of the search.
        drawing: Of the search.
        judge_instruction: Name or file of criteria for the judge; None for its own.
    """
    bench = Bench(generator, result.prompt, drawing, seed)
    plain = _plain(bench, result)
    gains: list[float | None] = [None, None]
    if result.winner is not None:
        whole = [pixels for pixels in plain if is_whole(pixels)]
        # The winner may itself be a plain picture: against itself it gains nothing, and is not asked about. Without
        # that nothing, it would be held against losers alone.
        others = [pixels for pixels in whole if not torch.equal(pixels, result.winner.pixels)]
        asked = ((verifier.model, verifier.instruction), (judge, judge_instruction))
        gains = [
            _gain(model, result.prompt, result.winner.pixels, others, len(whole), instruction, bench.meter)
            for model, instruction in asked
        ]
    made = [candidate.pixels for candidate in result.candidates]
    return Watch(gains[0], gains[1], _diversity(made), _diversity(plain), bench.meter.spent)


def watch_budget(denoising_steps: int, made_plain: int) -> Budget:
    """The most that watching one prompt costs.

    Args:
        denoising_steps: From noise to picture.
        made_plain: Plain pictures among the candidates, as best of N makes them: they are not made again.
    """
    missing = max(0, PLAIN_PICTURES - made_plain)
    return Budget(missing * denoising_steps, missing, 2 * PLAIN_PICTURES)


def summarise(watches: Sequence[Watch], seed: int = 0) -> WatchSummary:
    """Gains with 95 % bootstrap intervals over prompts, and what follows from them."""
    verifier = _interval([one.verifier_gain for one in watches], seed)
    judge = _interval([one.judge_gain for one in watches], seed)
    judged = [one.judge_gain for one in watches if one.judge_gain is not None]
    finding: Finding = "undecided"
    if judge is not None and judge.n >= FEWEST_PROMPTS and judge.low is not None and judge.high is not None:
        rises = verifier is not None and verifier.low is not None and verifier.low > 0
        finding = "confirmed" if judge.low > 0 else "hacked" if rises and judge.high <= 0 else "undecided"
    return WatchSummary(
        finding,
        verifier,
        judge,
        sum(gain > 0 for gain in judged) / len(judged) if judged else None,
        _mean([one.diversity for one in watches]),
        _mean([one.plain_diversity for one in watches]),
    )


def _plain(bench: Bench, result: SearchResult) -> list[Float[Tensor, "3 height width"]]:
    """Plain pictures: those among the candidates, and what is missing."""
    seeds = bench.seeds(PLAIN_PICTURES)
    plain = [one.pixels for one in result.candidates[:PLAIN_PICTURES]] if result.is_plain else []
    missing = seeds[len(plain) :]
    if missing:
        plain += list(bench.pictures(bench.denoise(bench.noise(missing), 0, bench.last)))
    return plain


def _gain(
    model: Judge,
    prompt: str,
    winner: Float[Tensor, "3 height width"],
    others: Sequence[Float[Tensor, "3 height width"]],
    plain: int,
    instruction: str | Path | None,
    meter: Meter,
) -> float | None:
    image = picture_of(winner)
    requests = [JudgementRequest(prompt, image, picture_of(other), instruction) for other in others]
    meter.count(judgements=len(requests))
    rewards = [judgement.reward for judgement in judged(model, requests)]
    known = [reward for reward in rewards if reward is not None]
    return sum(known) / plain if known and len(known) == len(rewards) else None


def _diversity(pictures: Sequence[Float[Tensor, "3 height width"]]) -> float | None:
    whole = [pixels for pixels in pictures if is_whole(pixels)]
    if len(whole) < 2:
        return None
    features = colour_grid_features(torch.stack(whole).double().numpy())
    return float(within_prompt_distance(features, np.zeros(len(whole), dtype=np.int64))[0])


def _interval(gains: Sequence[float | None], seed: int) -> Interval | None:
    values = np.array([np.nan if gain is None else gain for gain in gains], dtype=np.float64)
    if not len(values) or np.isnan(values).all():
        return None
    return bootstrap_mean(values, np.arange(len(values)), numpy_rng(seed, "watch"))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
