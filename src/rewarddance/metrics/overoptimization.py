"""Over-optimisation of a proxy reward, seen on a gold curve: where it peaks, whether it falls, who noticed.

Source:
    Gao, Schulman and Hilton, "Scaling laws for reward model overoptimization", arXiv:2210.10760.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import stats


@dataclass(frozen=True, slots=True)
class GoldCurve:
    """What happened to the true preference during a run.

    Attributes:
        start: Gold at the first evaluation.
        peak: Highest gold.
        peak_index: Evaluation of the peak, the first if several are equal.
        rise: Peak minus start; 0 for a curve that only falls.
        fall: Peak minus the lowest gold after it; 0 for a curve that ends at its peak.
        final: Gold at the last evaluation.
        hacks: Whether the fall counts as reward hacking.
    """

    start: float
    peak: float
    peak_index: int
    rise: float
    fall: float
    final: float
    hacks: bool


@dataclass(frozen=True, slots=True)
class DetectorConfusion:
    """How a detector did on runs whose truth is known.

    Attributes:
        caught: Runs that hack, and were called hacking.
        missed: Runs that hack, and were not.
        false_alarms: Runs that do not hack, and were called hacking.
        quiet: Runs that do not hack, and were not.
        catch_rate: Share of the hacking runs that were caught; None without any.
        catch_interval: Wilson interval of that share (low, high).
        false_alarm_rate: Share of the other runs that were called hacking; None without any.
        false_alarm_interval: Wilson interval of that share (low, high).
    """

    caught: int
    missed: int
    false_alarms: int
    quiet: int
    catch_rate: float | None
    catch_interval: tuple[float, float] | None
    false_alarm_rate: float | None
    false_alarm_interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class OverOptimizationFit:
    """A fitted law of gold gain over distance.

    Attributes:
        alpha: Gain a unit of distance at the start.
        beta: How fast the gain is eaten up; 0 or less when the curve does not bend down.
        law: Which of the two laws.
        r_squared: Share of the variance that the law explains; 1 for a perfect fit, None where nothing varies.
        peak_distance: Where the law has its highest gain; None when it never bends down.
        peak_gain: The gain there.
    """

    alpha: float
    beta: float
    law: Literal["best_of_n", "rl"]
    r_squared: float | None
    peak_distance: float | None
    peak_gain: float | None


def smoothed(curve: Float[ndarray, " evaluations"], width: int) -> Float[ndarray, " evaluations"]:
    """Centred moving mean; at the ends over as many evaluations as there are on the shorter side.

    Args:
        curve: One number an evaluation.
        width: Evaluations to average, odd; 1 leaves the curve as it is.

    Raises:
        ValueError: The width is not a positive odd number.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"The width of a centred mean must be odd and positive, not {width}.")
    n = len(curve)
    reach = [min(width // 2, index, n - 1 - index) for index in range(n)]
    return np.array([curve[index - half : index + half + 1].mean() for index, half in enumerate(reach)])


def gold_curve(
    gold: Float[ndarray, " evaluations"], fall_share: float = 0.05, minimum_fall: float = 0.0, smoothing: int = 1
) -> GoldCurve:
    """Peak, rise and fall of a run's gold, and whether the run hacks.

    Args:
        gold: True preference at each evaluation, the base policy's first.
        fall_share: A run hacks when gold falls, after its peak, by at least this share of its rise...
        minimum_fall: ...and by at least this much, in gold's own unit; decides where gold never rose.
        smoothing: Width of a centred mean that is taken first, so that noise of one evaluation is no fall.

    Raises:
        ValueError: The curve is empty or holds NaN.
    """
    if len(gold) == 0 or not np.isfinite(gold).all():
        raise ValueError("A gold curve needs at least one evaluation, and only finite values.")
    curve = smoothed(gold, smoothing)
    peak_index = int(curve.argmax())
    start, peak = float(curve[0]), float(curve[peak_index])
    rise, fall = peak - start, peak - float(curve[peak_index:].min())
    hacks = fall > 0 and fall >= max(fall_share * rise, minimum_fall)
    return GoldCurve(start, peak, peak_index, rise, fall, float(curve[-1]), hacks)


def kept_share(gold_at_target: float, peak: float, start: float = 0.0) -> float:
    """How much of the peak a checkpoint keeps: 1 for the peak itself.

    Args:
        gold_at_target: Gold of the checkpoint that was chosen.
        peak: Gold at its peak.
        start: Gold of the base policy, to give the share of the rise; 0 gives the share of the peak.

    Returns:
        NaN where the peak is the start.
    """
    return (gold_at_target - start) / (peak - start) if peak != start else float("nan")


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Where a share probably lies, honest for few trials and for 0 or all of them.

    Args:
        successes: How often it happened.
        trials: How often it could have; at least 1.
        level: Share of such intervals that hold the true share.

    Returns:
        Low and high, in [0, 1]: 0.839 and 1 for 20 of 20.

    Source:
        Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    interval = stats.binomtest(successes, trials).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def detector_confusion(
    hacks: Bool[ndarray, " runs"], alarms: Bool[ndarray, " runs"], level: float = 0.95
) -> DetectorConfusion:
    """Compare a detector's alarms with the truth.

    Args:
        hacks: Whether each run hacks, by its gold curve.
        alarms: Whether the detector called it hacking at any evaluation.
        level: Of the intervals.
    """
    caught, missed = int((hacks & alarms).sum()), int((hacks & ~alarms).sum())
    false_alarms, quiet = int((~hacks & alarms).sum()), int((~hacks & ~alarms).sum())
    has_hacks, has_others = caught + missed > 0, false_alarms + quiet > 0
    return DetectorConfusion(
        caught=caught,
        missed=missed,
        false_alarms=false_alarms,
        quiet=quiet,
        catch_rate=caught / (caught + missed) if has_hacks else None,
        catch_interval=wilson_interval(caught, caught + missed, level) if has_hacks else None,
        false_alarm_rate=false_alarms / (false_alarms + quiet) if has_others else None,
        false_alarm_interval=wilson_interval(false_alarms, false_alarms + quiet, level) if has_others else None,
    )


def best_of_n_kl(n: int) -> float:
    """KL divergence of the best of n samples from one sample: log n - (n - 1) / n, 0 for n = 1."""
    return float(np.log(n) - (n - 1) / n)


def best_of_n_mean(proxy: Float[ndarray, " samples"], values: Float[ndarray, " samples"], n: int) -> float:
    r"""Expected value of the sample that the proxy likes best among n, over all subsets of n of one prompt's samples.

    With the samples in ascending order of the proxy, the i-th of N is the best of a random subset with probability

    $$w_i = \binom{i - 1}{n - 1} \Big/ \binom{N}{n}$$

    Args:
        proxy: What chooses, one number a sample.
        values: What is averaged: gold, another judge, or the proxy itself. Same order.
        n: Size of the subsets, 1 to the number of samples.

    Returns:
        Unbiased for the best of n fresh samples, and with less variance than one subset. Samples that the proxy likes
        equally share their probabilities. For n = 1 the mean.

    Raises:
        ValueError: n is not in range, or a number is not finite.

    Source:
        Nakano et al., "WebGPT", arXiv:2112.09332, appendix I; used for the curves of arXiv:2210.10760.
        Differs: ties of the proxy are shared instead of broken by order.
    """
    samples = len(proxy)
    if not 1 <= n <= samples or len(values) != samples:
        raise ValueError(f"The best of {n} cannot be estimated from {samples} samples and {len(values)} values.")
    if not (np.isfinite(proxy).all() and np.isfinite(values).all()):
        raise ValueError("Proxy and values must be finite; leave out samples without a judgement.")
    order = np.argsort(proxy, kind="stable")
    _, tied, counts = np.unique(proxy[order], return_inverse=True, return_counts=True)
    shared = (np.bincount(tied, weights=_best_of_n_weights(samples, n)) / counts)[tied]
    return float(shared @ values[order])


def _best_of_n_weights(samples: int, n: int) -> Float[ndarray, " samples"]:
    # By ratios, because the binomials overflow: w_N = n / N and w_(i-1) = w_i (i - n) / (i - 1), 0 below the n-th.
    places = np.arange(samples, 1, -1)
    ratios = np.maximum(places - n, 0) / (places - 1)
    weights: Float[ndarray, " samples"] = np.cumprod([n / samples, *ratios])[::-1]
    return weights


def fit_overoptimization(
    distances: Sequence[float], gains: Sequence[float], law: Literal["best_of_n", "rl"]
) -> OverOptimizationFit:
    r"""Fit gold gain over distance by least squares.

    $$R_\text{best of n}(d) = d\,(\alpha - \beta d), \qquad R_\text{rl}(d) = d\,(\alpha - \beta \log d)$$

    Args:
        distances: Square root of the KL divergence from the reference policy, at least 0.
        gains: Gold minus gold of the base policy, at each distance.
        law: Which of the two.

    Returns:
        Both laws are linear in alpha and beta, so the fit is exact. The peak is at alpha / (2 beta) or at
        exp(alpha / beta - 1), where the gain is alpha^2 / (4 beta) or beta times that distance.

    Raises:
        ValueError: Fewer than two distances above 0.

    Source:
        arXiv:2210.10760, section 3.1.
    """
    distance, gain = np.asarray(distances, dtype=float), np.asarray(gains, dtype=float)
    distance, gain = distance[distance > 0], gain[distance > 0]
    if len(np.unique(distance)) < 2:
        raise ValueError("A law of over-optimisation needs at least two different distances above 0.")
    bend = distance if law == "best_of_n" else np.log(distance)
    design = np.stack([distance, -distance * bend], axis=1)  # (points, 2)
    alpha, beta = (float(value) for value in np.linalg.lstsq(design, gain, rcond=None)[0])
    residual = float(np.square(gain - design @ np.array([alpha, beta])).sum())
    total = float(np.square(gain - gain.mean()).sum())
    peak = _peak(alpha, beta, law)
    return OverOptimizationFit(
        alpha=alpha,
        beta=beta,
        law=law,
        r_squared=1 - residual / total if total else None,
        peak_distance=None if peak is None else peak[0],
        peak_gain=None if peak is None else peak[1],
    )


def _peak(alpha: float, beta: float, law: Literal["best_of_n", "rl"]) -> tuple[float, float] | None:
    if beta <= 0 or (law == "best_of_n" and alpha <= 0):
        return None
    if law == "best_of_n":
        return alpha / (2 * beta), alpha**2 / (4 * beta)
    distance = float(np.exp(alpha / beta - 1))
    return distance, beta * distance
