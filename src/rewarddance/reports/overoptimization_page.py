"""The page of a best-of-n curve: how far a reward model can be followed, by what measures it."""

from collections.abc import Sequence

from rewarddance.evaluation.overoptimization import BestOfNCurve, BestOfNPoint, LawWithIntervals
from rewarddance.metrics.bootstrap import Interval
from rewarddance.reports.sections import (
    Cell,
    Charts,
    Column,
    Estimate,
    LineChart,
    Page,
    Point,
    Section,
    Series,
    Table,
    Text,
)

_FITTED_POINTS = 60

_READING = (
    "Each point is the best of n pictures by the proxy, over all subsets of n of a prompt's pictures. Where the proxy "
    "goes on rising and what measures it bends down, following the proxy further does harm. A second judge is no "
    "truth: where the two part, one of them is wrong."
)


def overoptimization_page(curves: Sequence[BestOfNCurve], facts: Sequence[tuple[str, str]] = ()) -> Page:
    """One section a curve.

    Args:
        curves: At least one.
        facts: Name and value, such as command and date.
    """
    return Page(
        title="How far the reward model can be followed",
        sections=tuple(_section(curve) for curve in curves),
        subtitle=_READING,
        facts=tuple(facts),
    )


def _section(curve: BestOfNCurve) -> Section:
    charts = tuple(_chart(curve, name) for name in (curve.measured_by, "proxy"))
    counted = Text(
        f"{curve.n_prompts} prompts; {curve.n_left_out} left out, because too few of their pictures were judged; "
        f"{curve.n_failed} pictures without a judgement."
    )
    return Section(curve.name, (Charts(charts), _points(curve), _laws(curve), counted))


def _chart(curve: BestOfNCurve, name: str) -> LineChart:
    law = curve.proxy_law if name == "proxy" else curve.gold_law
    measured = tuple(
        Point(point.distance, gain.estimate, gain.low, gain.high)
        for point in curve.points
        for gain in [point.proxy_gain if name == "proxy" else point.gold_gain]
    )
    farthest = curve.points[-1].distance
    distances = [farthest * place / _FITTED_POINTS for place in range(_FITTED_POINTS + 1)]
    fitted = tuple(Point(one, one * (law.fit.alpha - law.fit.beta * one)) for one in distances)
    return LineChart(
        title=f"{name}, gain over one picture",
        x_label="square root of KL (nats)",
        y_label="gain",
        series=(Series(name, measured, has_markers=True), Series("fitted", fitted)),
    )


def _points(curve: BestOfNCurve) -> Table:
    columns = (
        Column("n", decimals=0),
        Column("KL, nats"),
        Column(f"{curve.measured_by}, gain"),
        Column("proxy, gain"),
    )
    return Table(columns, tuple(_row(point) for point in curve.points), "Best of n", "95 % bootstrap over prompts.")


def _row(point: BestOfNPoint) -> tuple[Cell, ...]:
    return (point.n, point.kl, _estimate(point.gold_gain), _estimate(point.proxy_gain))


def _laws(curve: BestOfNCurve) -> Table:
    def row(name: str, law: LawWithIntervals) -> tuple[Cell, ...]:
        return (name, _estimate(law.alpha), _estimate(law.beta))

    columns = (Column("", is_text=True), Column("alpha"), Column("beta"))
    rows = (row(curve.measured_by, curve.gold_law), row("proxy", curve.proxy_law))
    caption = "d (alpha - beta d) over d, the square root of KL. A curve surely bends where beta lies above 0."
    return Table(columns, rows, "Fitted laws", caption)


def _estimate(interval: Interval) -> Estimate:
    return Estimate(interval.estimate, interval.low, interval.high)
