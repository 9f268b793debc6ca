"""Means over seeds, which are few."""

from collections.abc import Sequence
from typing import Any

from scipy import stats

_LEVEL = 0.95


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t interval; infinite half width for a single value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, float("inf")
    return mean, float(stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1) * stats.sem(values))


def seed_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean with its 95 % t interval, as a results file has it; no ends for a single seed."""
    mean, half = mean_and_half_width(values)
    is_single = len(values) < 2
    return {"mean": mean, "low": None if is_single else mean - half, "high": None if is_single else mean + half}
