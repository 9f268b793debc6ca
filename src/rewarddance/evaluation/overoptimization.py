"""How far a reward model can be followed: what becomes of true preference when it picks the best of n samples.

Nothing is trained. Every prompt has N samples, each with the proxy's reward and its gold; the best of n is estimated
from all subsets of n. For a real generator, which has no gold, a second judge stands in its place: the curve then says
where two reward models part, not where the truth lies.

Source:
    Gao, Schulman and Hilton, "Scaling laws for reward model overoptimization", arXiv:2210.10760, section 3.
    Differs: samples are grouped by prompt, and prompts are drawn for the intervals, of which the paper has none; a
    prompt with fewer judged samples than the largest n is left out of the whole curve and counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.files import write_json_atomic
from rewarddance.core.seeding import numpy_rng
from rewarddance.metrics.bootstrap import Interval, bootstrap_mean
from rewarddance.metrics.overoptimization import (
    OverOptimizationFit,
    best_of_n_kl,
    best_of_n_mean,
    fit_overoptimization,
)

_DRAWN_POINTS = 60


@dataclass(frozen=True, slots=True)
class CurveSettings:
    """How a curve is measured.

    Attributes:
        sizes: The n of best-of-n, ascending from 1; None takes 1, 2, 4, ... up to the number of samples.
        resamples: Bootstrap draws of prompts.
        level: Share of intervals that are to hold the true value.
        seed: Of the bootstrap.
    """

    sizes: tuple[int, ...] | None = None
    resamples: int = 2000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True, slots=True)
class BestOfNPoint:
    """What the best of n is worth.

    Attributes:
        n: Samples from which the proxy picks one.
        kl: KL divergence from one sample, log n - (n - 1) / n.
        distance: Its square root.
        gold: Mean gold of the picked samples.
        gold_gain: That less the mean gold of all samples, prompt by prompt.
        proxy: Mean reward of the picked samples.
        proxy_gain: Likewise.
    """

    n: int
    kl: float
    distance: float
    gold: Interval
    gold_gain: Interval
    proxy: Interval
    proxy_gain: Interval


@dataclass(frozen=True, slots=True)
class LawWithIntervals:
    """A fitted law d (alpha - beta d), d being the square root of the KL divergence.

    Attributes:
        fit: The coefficients and the peak.
        alpha: With its bootstrap interval over prompts.
        beta: Likewise; a curve surely bends down when its lower end is above 0.
    """

    fit: OverOptimizationFit
    alpha: Interval
    beta: Interval


@dataclass(frozen=True, slots=True)
class BestOfNCurve:
    """Gold and proxy over the strength of optimisation, for one reward model.

    Attributes:
        name: Of the reward model.
        measured_by: What stands for true preference: `gold`, or the name of a second judge.
        points: One a size, ascending.
        gold_law: Fitted to the gain of gold.
        proxy_law: Fitted to the gain of the proxy.
        n_prompts: Prompts of the curve.
        n_left_out: Prompts with fewer judged samples than the largest n.
        n_failed: Samples without a judgement of the proxy or without gold, over all prompts.
        facets: What to group curves by, such as `{"size": "small", "paradigm": "pairwise"}`.
    """

    name: str
    measured_by: str
    points: tuple[BestOfNPoint, ...]
    gold_law: LawWithIntervals
    proxy_law: LawWithIntervals
    n_prompts: int
    n_left_out: int
    n_failed: int
    facets: Mapping[str, str] = field(default_factory=dict)


def best_of_n_curve(
    name: str,
    proxy: Float[ndarray, "prompts samples"],
    gold: Float[ndarray, "_ _"],
    settings: CurveSettings = CurveSettings(),
    measured_by: str = "gold",
    facets: Mapping[str, str] | None = None,
) -> BestOfNCurve:
    """Measure one reward model.

    Args:
        name: Of the reward model; it also decides the bootstrap's draws, together with the seed.
        proxy: Its reward (log-odds) of every sample; NaN where it has no judgement.
        gold: True preference of the same samples, or another judge's reward; NaN where there is none.
        settings: Sizes, and how intervals are made.
        measured_by: What `gold` is.
        facets: What to group curves by.

    Returns:
        Prompts count alike. Samples with a NaN in either table take no part, and are counted.

    Raises:
        DataError: No prompt has enough judged samples.
        UsageError: Tables of different shape, or sizes that do not ascend from 1 to at least two more.
    """
    if proxy.shape != gold.shape:
        raise UsageError(f"proxy and gold must be of the same samples; their tables are {proxy.shape} and {gold.shape}")
    sizes = _sizes(settings, proxy.shape[1])
    is_judged = np.isfinite(proxy) & np.isfinite(gold)
    kept = np.flatnonzero(is_judged.sum(1) >= sizes[-1])
    if len(kept) == 0:
        raise DataError(
            f"no prompt has {sizes[-1]} judged samples; take smaller sizes, or look at why judgements failed"
        )
    tables = {"gold": np.empty((len(kept), len(sizes))), "proxy": np.empty((len(kept), len(sizes)))}
    for row, prompt in enumerate(kept):
        own_proxy, own_gold = proxy[prompt, is_judged[prompt]], gold[prompt, is_judged[prompt]]
        for column, n in enumerate(sizes):
            tables["gold"][row, column] = best_of_n_mean(own_proxy, own_gold, n)
            tables["proxy"][row, column] = best_of_n_mean(own_proxy, own_proxy, n)
    return BestOfNCurve(
        name=name,
        measured_by=measured_by,
        points=tuple(_point(column, n, tables, settings, name) for column, n in enumerate(sizes)),
        gold_law=_law(tables["gold"], sizes, settings, name),
        proxy_law=_law(tables["proxy"], sizes, settings, name),
        n_prompts=len(kept),
        n_left_out=len(proxy) - len(kept),
        n_failed=int((~is_judged).sum()),
        facets=dict(facets or {}),
    )


def curve_to_json(curve: BestOfNCurve) -> dict[str, object]:
    """Every figure of a curve, and its lines as a chart draws them."""
    return {**asdict(curve), "chart": _chart(curve)}


def write_curves(path: Path, curves: Sequence[BestOfNCurve], extra: Mapping[str, object] | None = None) -> None:
    """Write curves as one JSON file.

    Args:
        path: Of the file; its folder is made if it is missing.
        curves: In the order in which a page shows them.
        extra: Anything else worth keeping (command, seeds, generator), made of plain values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, {**(extra or {}), "curves": [curve_to_json(curve) for curve in curves]})


def _sizes(settings: CurveSettings, samples: int) -> tuple[int, ...]:
    doublings = tuple(2**power for power in range(samples.bit_length()) if 2**power <= samples)
    sizes = settings.sizes or doublings
    if len(sizes) < 3 or sizes[0] != 1 or list(sizes) != sorted(set(sizes)) or sizes[-1] > samples:
        raise UsageError(
            f"a curve needs at least three sizes that ascend from 1 to at most {samples} samples a prompt, not {sizes}"
        )
    return sizes


def _point(
    column: int, n: int, tables: Mapping[str, Float[ndarray, "prompts sizes"]], settings: CurveSettings, name: str
) -> BestOfNPoint:
    def interval(values: Float[ndarray, " prompts"]) -> Interval:
        return _interval(values, settings, name)

    gold, proxy = tables["gold"], tables["proxy"]
    kl = best_of_n_kl(n)
    return BestOfNPoint(
        n=n,
        kl=kl,
        distance=kl**0.5,
        gold=interval(gold[:, column]),
        gold_gain=interval(gold[:, column] - gold[:, 0]),
        proxy=interval(proxy[:, column]),
        proxy_gain=interval(proxy[:, column] - proxy[:, 0]),
    )


def _law(
    table: Float[ndarray, "prompts sizes"], sizes: Sequence[int], settings: CurveSettings, name: str
) -> LawWithIntervals:
    distances = [best_of_n_kl(n) ** 0.5 for n in sizes]
    gains = table - table[:, :1]
    # The fit is linear in the gains: the coefficients of the mean curve are the means of the prompts' own.
    fits = [fit_overoptimization(distances, own.tolist(), "best_of_n") for own in gains]
    return LawWithIntervals(
        fit_overoptimization(distances, gains.mean(0).tolist(), "best_of_n"),
        alpha=_interval(np.array([fit.alpha for fit in fits]), settings, name),
        beta=_interval(np.array([fit.beta for fit in fits]), settings, name),
    )


def _interval(values: Float[ndarray, " prompts"], settings: CurveSettings, name: str) -> Interval:
    # The same draws for every figure of a model: its points lie in a band, not in a cloud.
    rng = numpy_rng(settings.seed, "best of n", name)
    prompts = np.arange(len(values))
    return bootstrap_mean(values, prompts, rng, resamples=settings.resamples, level=settings.level)


def _chart(curve: BestOfNCurve) -> dict[str, object]:
    """Measured gains with their intervals, and the fitted laws, over the distance."""
    dense = np.linspace(0.0, curve.points[-1].distance, _DRAWN_POINTS)
    series: list[dict[str, object]] = []
    for label, law, gains in (
        (curve.measured_by, curve.gold_law.fit, [point.gold_gain for point in curve.points]),
        ("proxy", curve.proxy_law.fit, [point.proxy_gain for point in curve.points]),
    ):
        measured = [
            {"x": point.distance, "y": gain.estimate, "low": gain.low, "high": gain.high}
            for point, gain in zip(curve.points, gains, strict=True)
        ]
        law_points = [{"x": float(d), "y": float(d * (law.alpha - law.beta * d))} for d in dense]
        series += [{"name": label, "points": measured}, {"name": f"{label}, fitted", "points": law_points}]
    return {"title": curve.name, "x_label": "square root of KL", "y_label": "gain over one sample", "series": series}
