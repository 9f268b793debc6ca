"""Whether a score of 0.8 is right eight times in ten.

Source:
    Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599 (reliability, ECE, temperature).
    Equal-mass bins: Nixon et al., "Measuring Calibration in Deep Learning", arXiv:1904.01685.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import optimize

Binning = Literal["equal_mass", "equal_width"]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Comparisons with about the same score.

    Attributes:
        mean_score: What the judge said, P(second better), on average.
        mean_target: What people preferred, on average; equal to `mean_score` for a calibrated judge.
        count: Number of comparisons.
    """

    mean_score: float
    mean_target: float
    count: int


def reliability_curve(
    scores: Float[ndarray, " comparisons"],
    targets: Float[ndarray, " comparisons"],
    bins: int = 10,
    binning: Binning = "equal_mass",
) -> tuple[ReliabilityBin, ...]:
    """Put comparisons with similar scores together.

    Args:
        scores: P(second better) in [0, 1], all finite.
        targets: Preference for the second medium in [0, 1].
        bins: How many bins at most; empty ones are left out.
        binning: The same number of comparisons in every bin, or the same range of scores.

    Returns:
        Bins in order of score.
    """
    return tuple(
        ReliabilityBin(float(scores[members].mean()), float(targets[members].mean()), len(members))
        for members in _members(scores, bins, binning)
        if len(members)
    )


def expected_calibration_error(curve: Sequence[ReliabilityBin]) -> float:
    r"""Mean distance between score and outcome, weighted by the size of the bins (ECE).

    $$\text{ECE} = \sum_b \frac{n_b}{n}\,\lvert \bar s_b - \bar y_b\rvert$$

    Args:
        curve: Bins of `reliability_curve`.

    Returns:
        In [0, 1]; 0 is calibrated. With few comparisons it is biased upwards: a calibrated judge on 1,000 comparisons
        in 10 equal bins still shows about 0.03.
    """
    n = sum(part.count for part in curve)
    if not n:
        return float("nan")
    return sum(part.count * abs(part.mean_score - part.mean_target) for part in curve) / n


def brier_score(scores: Float[ndarray, " comparisons"], targets: Float[ndarray, " comparisons"]) -> float:
    """Mean squared distance between score and preference; 0.25 for a judge that always says one half, 0 is best."""
    return float(np.mean((scores - targets) ** 2)) if len(scores) else float("nan")


def fit_temperature(log_odds: Float[ndarray, " comparisons"], targets: Float[ndarray, " comparisons"]) -> float:
    """Temperature T for which log-odds / T have the lowest cross-entropy.

    Args:
        log_odds: Log-odds that the second medium is better, all finite.
        targets: Preference for the second medium in [0, 1].

    Returns:
        Within [0.01, 100]; above 1 when the judge is too sure of itself. An end of the range means that the
        comparisons are separated (0.01) or carry no information (100).
    """

    def cross_entropy(log_temperature: float) -> float:
        scaled = log_odds / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0.0, scaled) - targets * scaled))

    bounds = (np.log(0.01), np.log(100.0))
    found = optimize.minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def _members(scores: Float[ndarray, " comparisons"], bins: int, binning: Binning) -> list[Int[ndarray, " _"]]:
    if binning == "equal_mass":
        return np.array_split(np.argsort(scores, kind="stable"), min(bins, max(1, len(scores))))
    numbers = np.minimum((scores * bins).astype(int), bins - 1)
    return [np.flatnonzero(numbers == number) for number in range(bins)]
