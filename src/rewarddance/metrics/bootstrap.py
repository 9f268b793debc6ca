"""Intervals and paired tests for means over comparisons that come in clusters.

Comparisons of one prompt share media and are not independent, so whole prompts are drawn, not comparisons.
Every function takes one value a comparison (for accuracy: 1 right, 0 wrong) and leaves NaN out.

Source:
    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 (clusters), 13 (percentile), 14 (BCa).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats

BootstrapMethod = Literal["percentile", "bca"]

_CELLS_AT_ONCE = 4_000_000  # bounds the memory of one block of resamples to some 64 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where the true one probably lies.

    Attributes:
        estimate: The mean of the values.
        low: Lower end; None with fewer than two clusters, from which no spread can be told.
        high: Upper end; None likewise.
        level: Share of such intervals that hold the true mean, in (0, 1).
        n: Number of values.
        n_clusters: Number of clusters.
    """

    estimate: float
    low: float | None
    high: float | None
    level: float
    n: int
    n_clusters: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much higher the mean of the second model is than that of the first, on the same comparisons.

    Attributes:
        interval: The difference of means, second minus first, with its clustered bootstrap interval.
        p_value: Two-sided, from swapping the two models in whole clusters at random.
        mcnemar_p_value: Two-sided exact McNemar test, which takes comparisons for independent.
        n_first_only: Comparisons on which the first model has the higher value.
        n_second_only: Comparisons on which the second model has the higher value.
    """

    interval: Interval
    p_value: float
    mcnemar_p_value: float
    n_first_only: int
    n_second_only: int


@dataclass(frozen=True, slots=True)
class _Clusters:
    """Sum and number of the values of each cluster."""

    sums: Float[ndarray, " clusters"]
    counts: Float[ndarray, " clusters"]

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.counts.sum())


def bootstrap_mean(
    values: Float[ndarray, " comparisons"],
    clusters: Int[ndarray, " comparisons"],
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    method: BootstrapMethod = "percentile",
) -> Interval:
    """Mean of values and its bootstrap interval, drawing whole clusters with replacement.

    Args:
        values: One value a comparison; NaN is left out.
        clusters: Number of the prompt of each comparison.
        rng: Draws the clusters.
        resamples: How many times; 2000 puts the ends within about 1 % of the interval's width.
        level: Share of intervals that are to hold the true mean.
        method: Plain percentiles, or percentiles corrected for bias and skew (better for fewer than 50 clusters).

    Returns:
        The interval; without width when all values are the same (see `bootstrap_share`).

    Raises:
        ValueError: No value is known.
    """
    grouped = _grouped(values, clusters)
    n, n_clusters = int(grouped.counts.sum()), len(grouped.counts)
    if n_clusters < 2:
        return Interval(grouped.mean, None, None, level, n, n_clusters)
    means = _resampled_means(grouped, rng, resamples)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    shares = tails if method == "percentile" else _bca_shares(grouped, means, tails)
    low, high = np.quantile(means, shares)
    return Interval(grouped.mean, float(low), float(high), level, n, n_clusters)


def bootstrap_share(
    values: Float[ndarray, " comparisons"],
    clusters: Int[ndarray, " comparisons"],
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    method: BootstrapMethod = "percentile",
) -> Interval:
    """`bootstrap_mean` for values in [0, 1], honest when all of them are 0 or all of them are 1.

    A bootstrap of twenty successes in twenty has no width. There the exact (Clopper-Pearson) interval is given,
    with clusters as the trials.

    Args:
        values: One value in [0, 1] a comparison; NaN is left out.
        clusters: Number of the prompt of each comparison.
        rng: Draws the clusters.
        resamples: How many times.
        level: Share of intervals that are to hold the true mean.
        method: As in `bootstrap_mean`.

    Returns:
        The interval, inside [0, 1].

    Raises:
        ValueError: No value is known.
    """
    interval = bootstrap_mean(values, clusters, rng, resamples=resamples, level=level, method=method)
    if interval.estimate not in (0.0, 1.0):
        return interval
    n = interval.n_clusters
    edge = ((1 - level) / 2) ** (1 / n)  # 1 - (tail)^(1/n) of n failures; 20 clusters at 95 %: 0.832
    low, high = (edge, 1.0) if interval.estimate == 1.0 else (0.0, 1 - edge)
    return Interval(interval.estimate, low, high, level, interval.n, n)


def paired_difference(
    first: Float[ndarray, " comparisons"],
    second: Float[ndarray, " comparisons"],
    clusters: Int[ndarray, " comparisons"],
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> PairedDifference:
    """Compare two models by their values on the same comparisons.

    Args:
        first: Values of the first model; a comparison that is NaN in either is left out.
        second: Values of the second model, in the same order.
        clusters: Number of the prompt of each comparison.
        rng: Draws clusters and swaps.
        resamples: Bootstrap draws, and random swaps for the p-value (which is at least 1 / (resamples + 1)).
        level: Share of intervals that are to hold the true difference.

    Returns:
        Positive when the second model is better.

    Raises:
        ValueError: No comparison is known for both.
    """
    difference = second - first
    interval = bootstrap_mean(difference, clusters, rng, resamples=resamples, level=level)
    sums = _grouped(difference, clusters).sums
    n_first, n_second = int((difference < 0).sum()), int((difference > 0).sum())
    return PairedDifference(
        interval=interval,
        p_value=_sign_flip_p_value(sums, rng, resamples),
        mcnemar_p_value=mcnemar_exact(n_first, n_second),
        n_first_only=n_first,
        n_second_only=n_second,
    )


def bootstrap_ratio(
    numerators: Float[ndarray, " comparisons"],
    denominators: Float[ndarray, " comparisons"],
    clusters: Int[ndarray, " comparisons"],
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Ratio of two means over the same comparisons, such as the share of one model's gain that another model keeps.

    Args:
        numerators: One value a comparison; a comparison that is NaN in either is left out.
        denominators: Likewise, in the same order.
        clusters: Number of the prompt of each comparison.
        rng: Draws the clusters.
        resamples: How many times.
        level: Share of intervals that are to hold the true ratio.

    Returns:
        The ratio with its percentile interval; without ends when the interval of the denominators' mean reaches down
        to 0, because the ratio says nothing then.

    Raises:
        ValueError: No comparison is known, or the mean of the denominators is 0.
    """
    is_known = ~(np.isnan(numerators) | np.isnan(denominators))
    above = _grouped(np.where(is_known, numerators, np.nan), clusters)
    below = _grouped(np.where(is_known, denominators, np.nan), clusters)
    if below.mean == 0:
        raise ValueError("There is no ratio to a mean of 0.")
    estimate, n, n_clusters = above.mean / below.mean, int(above.counts.sum()), len(above.counts)
    drawn = rng.integers(n_clusters, size=(resamples, n_clusters))
    sums = below.sums[drawn].sum(axis=1)
    if n_clusters < 2 or np.quantile(sums, (1 - level) / 2) <= 0:
        return Interval(estimate, None, None, level, n, n_clusters)
    ratios = above.sums[drawn].sum(axis=1)[sums > 0] / sums[sums > 0]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level, n, n_clusters)


def mcnemar_exact(n_first_only: int, n_second_only: int) -> float:
    """Two-sided exact McNemar test: are the comparisons that only one model gets right split evenly?

    Args:
        n_first_only: Comparisons that only the first model gets right.
        n_second_only: Comparisons that only the second model gets right.

    Returns:
        The p-value; 1 when the models never differ.

    Source:
        McNemar (1947); exact form: binomial test of n_first_only among their sum with probability one half.
    """
    n = n_first_only + n_second_only
    return float(stats.binomtest(n_first_only, n, 0.5).pvalue) if n else 1.0


def _grouped(values: Float[ndarray, " comparisons"], clusters: Int[ndarray, " comparisons"]) -> _Clusters:
    is_known = ~np.isnan(values)
    if not is_known.any():
        raise ValueError("There is no value to average: every comparison is a tie, unjudged or left out.")
    _, numbers = np.unique(clusters[is_known], return_inverse=True)
    counts = np.bincount(numbers).astype(float)
    return _Clusters(sums=np.bincount(numbers, weights=values[is_known]), counts=counts)


def _resampled_means(grouped: _Clusters, rng: np.random.Generator, resamples: int) -> Float[ndarray, " resamples"]:
    n_clusters = len(grouped.counts)
    block = max(1, _CELLS_AT_ONCE // n_clusters)
    means = []
    for start in range(0, resamples, block):
        drawn = rng.integers(n_clusters, size=(min(block, resamples - start), n_clusters), dtype=np.int32)
        means.append(grouped.sums[drawn].sum(axis=1) / grouped.counts[drawn].sum(axis=1))
    return np.concatenate(means)


def _bca_shares(
    grouped: _Clusters, means: Float[ndarray, " resamples"], tails: Float[ndarray, " tails"]
) -> Float[ndarray, " tails"]:
    """Which percentiles to read so that bias and skew are taken out (Efron and Tibshirani, Eq. 14.10)."""
    below = ((means < grouped.mean).mean() + (means <= grouped.mean).mean()) / 2
    if not 0 < below < 1:
        return tails
    bias = stats.norm.ppf(below)
    total, count = grouped.sums.sum(), grouped.counts.sum()
    left_out = (total - grouped.sums) / (count - grouped.counts)
    skew = left_out.mean() - left_out
    spread = float((skew**2).sum()) ** 1.5
    acceleration = float((skew**3).sum()) / (6 * spread) if spread else 0.0
    shifted = bias + stats.norm.ppf(tails)
    return np.asarray(stats.norm.cdf(bias + shifted / (1 - acceleration * shifted)))


def _sign_flip_p_value(sums: Float[ndarray, " clusters"], rng: np.random.Generator, resamples: int) -> float:
    """Share of random swaps of the models, cluster by cluster, that differ at least as much; the data count as one."""
    observed = abs(float(sums.sum())) * (1 - 1e-12)  # equal sums must not fall below by rounding
    block = max(1, _CELLS_AT_ONCE // len(sums))
    extreme = 0
    for start in range(0, resamples, block):
        signs = rng.integers(2, size=(min(block, resamples - start), len(sums)), dtype=np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ sums) >= observed).sum())
    return (extreme + 1) / (resamples + 1)
