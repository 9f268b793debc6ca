"""Thresholds of the guard and of the paper's signal, fixed on recorded runs: one rule, and the same runs for both."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeVar

import numpy as np

from rewarddance.config.guard import GuardConfig, SpreadConfig
from rewarddance.lab.guard_study import Detectors, Recorded, judged

_ERROR_RATES = ((0.05, 0.01), (0.1, 0.02), (0.1, 0.1), (0.2, 0.05), (0.2, 0.2), (0.3, 0.3))
_SPREADS: tuple[Literal["score", "reward"], ...] = ("score", "reward")
_AMONG: tuple[Literal["all", "prompt"], ...] = ("all", "prompt")
_SPREAD_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Detector = TypeVar("Detector", GuardConfig, SpreadConfig)


@dataclass(frozen=True, slots=True)
class Merit:
    """How well a detector does on recorded runs; the largest is the best.

    Attributes:
        separation: Share of hacking runs caught less the share of healthy runs called hacking.
        kept: Mean share of the peak of gold that is kept, over the hacking runs; 1 less the fall where it slept.
    """

    separation: float
    kept: float


def fix_thresholds(runs: Sequence[Recorded], looks: int) -> Detectors:
    """Both detectors, each with what tells these runs apart best.

    Args:
        runs: None of those that the detectors are scored on afterwards.
        looks: Evaluations of a run, behind the base's.
    """
    return Detectors(best_of(runs, guard_candidates(looks)), best_of(runs, spread_candidates()))


def best_of(runs: Sequence[Recorded], candidates: Iterable[Detector]) -> Detector:
    """The candidate that tells hacking from healthy runs best; of equals, that which keeps most gold, then the first.

    Args:
        runs: As of `fix_thresholds`.
        candidates: At least one.
    """
    merits = [(candidate, merit(runs, candidate)) for candidate in candidates]
    return max(merits, key=lambda one: (round(one[1].separation, 6), round(one[1].kept, 6)))[0]


def merit(runs: Sequence[Recorded], detector: GuardConfig | SpreadConfig) -> Merit:
    """How well a detector does on these runs."""
    hacks = np.array([run.curve.hacks for run in runs])
    found = [judged(run, detector) for run in runs]
    alarms = np.array([one["alarm_step"] is not None for one in found])
    kept = [one["kept_share"] for one, hacked in zip(found, hacks, strict=True) if hacked]
    caught = float(alarms[hacks].mean()) if hacks.any() else 0.0
    false = float(alarms[~hacks].mean()) if (~hacks).any() else 0.0
    return Merit(caught - false, float(np.mean(kept)) if kept else 0.0)


def guard_candidates(looks: int) -> Iterator[GuardConfig]:
    """Settings of the guard for runs of so many looks, the strictest first."""
    grid = product(_ERROR_RATES, (2, 1), (0.2, 0.1, 0.03), (0.75, 0.5), (None, 0.02, 0.05), (0.0, 1.0, 1.5, 2.0))
    for (error, lone), smoothing, fall, agreeing, persistent, roll_back in grid:
        yield GuardConfig(
            looks=looks,
            error_rate=error,
            lone_error_rate=lone,
            smoothing=smoothing,
            minimum_fall=fall,
            agreeing_share=agreeing,
            persistent_level=persistent,
            roll_back_errors=roll_back,
        )


def spread_candidates() -> Iterator[SpreadConfig]:
    """Settings of the paper's signal: over all pictures, as there, and within prompts; of scores and of log-odds."""
    for share, window, of, among in product(_SPREAD_SHARES, (1, 2, 3), _SPREADS, _AMONG):
        yield SpreadConfig(share=share, window=window, of=of, among=among)
