"""Figures of one or several `evaluation.json` as sections: accuracy, against gold, position bias, calibration."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rewarddance.core.errors import DataError
from rewarddance.evaluation.model_comparison import compare_models
from rewarddance.reports.numbers import count, decimal, p_value
from rewarddance.reports.run_files import StoredEvaluation
from rewarddance.reports.sections import (
    Block,
    Cell,
    Charts,
    Column,
    Estimate,
    Figure,
    Figures,
    Guide,
    IntervalChart,
    IntervalRow,
    LineChart,
    Point,
    Section,
    Series,
    Table,
)

_Group = Mapping[str, Any]

_CHANCE = Guide(0.5, "chance")
_MODEL, _ON, _N = Column("Model", is_text=True), Column("Comparisons", is_text=True), Column("n")
_INTERVALS = "Intervals hold the true value 95 times in 100; they are bootstrapped by prompt."


def key_figures(evaluations: Sequence[StoredEvaluation]) -> Section | None:
    """The headline of each model, split by split where there are several."""
    figures = []
    for evaluation in evaluations:
        for label, group in _headline_groups(evaluation.report):
            figures.append(Figure(f"{evaluation.name}, {label}", _estimate(group["accuracy"]), _on(group)))
    intro = f"Accuracy: the share of comparisons in which the model prefers what people prefer. {_INTERVALS}"
    return Section("Key figures", (Figures(tuple(figures)),), intro) if figures else None


def accuracy_section(evaluations: Sequence[StoredEvaluation]) -> Section | None:
    """Accuracy and agreement, of every group of comparisons; paired tests between models."""
    if not evaluations:
        return None
    columns = (
        _MODEL,
        _ON,
        _N,
        Column("Accuracy"),
        Column("Agreement, ties counted"),
        Column("Accuracy from one order"),
        Column("Ties"),
        Column("Failed"),
    )
    rows = [
        (
            evaluation.name,
            label,
            group["n"],
            _estimate(group["accuracy"]),
            _estimate(group["agreement"]),
            _estimate((group["orders"] or {}).get("accuracy_mean")),
            group["n_ties"],
            group["n_failed"],
        )
        for evaluation in evaluations
        for label, group in _groups(evaluation.report)
    ]
    policy = "Accuracy drops ties among people; a comparison that the model failed on counts as wrong."
    blocks: list[Block] = [Table(columns, tuple(rows), caption=f"{policy} {_INTERVALS}")]
    blocks += [*_accuracy_charts(evaluations), *_gold_table(evaluations), *_paired_table(evaluations)]
    return Section("Accuracy", tuple(blocks))


def position_section(evaluations: Sequence[StoredEvaluation]) -> Section | None:
    """What the order of the two media does to the answers."""
    columns = (
        _MODEL,
        _ON,
        Column("Depends on order"),
        Column("With two orders"),
        Column("Accuracy, as stored"),
        Column("Accuracy, swapped"),
        Column("Mean order gap"),
        Column("Second slot chosen"),
    )
    rows: list[tuple[Cell, ...]] = []
    for evaluation in evaluations:
        for label, group in _headline_groups(evaluation.report, with_overall=True):
            orders = group["orders"]
            if orders is not None:
                rows.append(
                    (
                        evaluation.name,
                        label,
                        _estimate(orders["share_inconsistent"]),
                        orders["share_inconsistent_two_orders"],
                        _estimate(orders["accuracy_forward"]),
                        _estimate(orders["accuracy_backward"]),
                        orders["mean_order_gap"],
                        orders["share_second"],
                    )
                )
    if not rows:
        return None
    intro = (
        "Every comparison is asked twice, the second time with the media swapped. The share of choices that depend on "
        "the order is what a single question suffers from; a judgement from both orders cannot."
    )
    caption = "Second slot chosen: 0.5 without bias. Mean order gap: |score(a vs b) − (1 − score(b vs a))|, 0 is best."
    return Section("Position bias", (Table(columns, tuple(rows), caption=caption),), intro)


def calibration_section(evaluations: Sequence[StoredEvaluation]) -> Section | None:
    """Whether scores mean what they say."""
    series, rows = [], []
    for evaluation in evaluations:
        calibration = evaluation.report["overall"]["calibration"]
        if calibration is None:
            continue
        curve = [(part["mean_score"], part["mean_target"]) for part in calibration["curve"]]
        points = tuple(Point(*part) for part in curve if None not in part)
        series.append(Series(evaluation.name, points, has_markers=True))
        figures = (calibration[key] for key in ("n", "ece", "ece_equal_width", "brier", "temperature"))
        rows.append((evaluation.name, *figures))
    if not series:
        return None
    chart = LineChart(
        "Reliability",
        "score: P(second is better)",
        "share in which people chose the second",
        tuple(series),
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        diagonal_label="calibrated",
        caption="Each dot holds equally many comparisons. Above the diagonal the score is too low, below too high.",
    )
    columns = (
        _MODEL,
        _N,
        Column("Calibration error", best="lowest"),
        Column("in equal widths", best="lowest"),
        Column("Brier score", best="lowest"),
        Column("Best temperature", decimals=2),
    )
    caption = (
        "A temperature above 1 means that the model is too sure of itself. Brier: 0.25 for always saying one half."
    )
    return Section("Calibration", (Charts((chart,)), Table(columns, tuple(rows), caption=caption)))


def _accuracy_charts(evaluations: Sequence[StoredEvaluation]) -> Iterator[Block]:
    charts = [_chart_by_group("Accuracy by group", evaluations, lambda group: group["accuracy"])]
    charts.append(
        _chart_by_group("Accuracy against gold", evaluations, lambda group: (_clearest(group) or {}).get("accuracy"))
    )
    drawn = tuple(chart for chart in charts if chart is not None)
    if drawn:
        yield Charts(drawn)


def _chart_by_group(
    title: str, evaluations: Sequence[StoredEvaluation], pick: Callable[[_Group], Mapping[str, Any] | None]
) -> IntervalChart | None:
    names = tuple(evaluation.name for evaluation in evaluations)
    by_label: dict[str, list[Estimate | None]] = {}
    for place, evaluation in enumerate(evaluations):
        for label, group in _groups(evaluation.report):
            by_label.setdefault(label, [None] * len(names))[place] = _estimate(pick(group))
    rows = tuple(IntervalRow(label, tuple(cells)) for label, cells in by_label.items() if any(cells))
    return IntervalChart(title, "accuracy", names, rows, guide=_CHANCE) if rows else None


def _gold_table(evaluations: Sequence[StoredEvaluation]) -> Iterator[Block]:
    columns = (
        _MODEL,
        _ON,
        Column("Gold differs by at least", decimals=2),
        _N,
        Column("Accuracy"),
        Column("Accuracy from one order"),
        Column("Depends on order"),
    )
    rows = tuple(
        (
            evaluation.name,
            label,
            gold["min_difference"],
            gold["n"],
            _estimate(gold["accuracy"]),
            _estimate(gold["accuracy_mean_orders"]),
            _estimate(gold["share_inconsistent"]),
        )
        for evaluation in evaluations
        for label, group in _headline_groups(evaluation.report, with_overall=True)
        for gold in group.get("gold", ())
    )
    if rows:
        caption = "Against the true preference, which only the lab knows, instead of people's noisy choices."
        yield Table(columns, rows, title="Against gold", caption=caption)


def _paired_table(evaluations: Sequence[StoredEvaluation]) -> Iterator[Block]:
    rows: list[tuple[Cell, ...]] = []
    for place, first in enumerate(evaluations):
        for second in evaluations[place + 1 :]:
            try:
                result = compare_models(first.rows, second.rows)
            except DataError:
                continue  # they were not asked about the same comparisons
            difference = result.difference
            estimate = Estimate(difference.interval.estimate, difference.interval.low, difference.interval.high)
            rows.append(
                (
                    f"{second.name} − {first.name}",
                    result.n,
                    estimate,
                    p_value(difference.p_value),
                    p_value(difference.mcnemar_p_value),
                )
            )
    if rows:
        columns = (
            Column("Models", is_text=True),
            _N,
            Column("Difference in accuracy"),
            Column("p"),
            Column("p, McNemar"),
        )
        caption = "On the comparisons that both judged. p: random swaps of the models, prompt by prompt."
        yield Table(columns, tuple(rows), title="Model against model", caption=caption)


def _groups(report: Mapping[str, Any]) -> Iterator[tuple[str, _Group]]:
    """All comparisons, then every facet that divides them, then every dimension."""
    yield "all", report["overall"]
    for name, groups in report["facets"].items():
        if len(groups) > 1 or name == "split":
            yield from ((_readable(value), group) for value, group in groups.items())
    yield from ((f"dimension: {_readable(name)}", group) for name, group in report["dimensions"].items())


def _headline_groups(report: Mapping[str, Any], with_overall: bool = False) -> Iterator[tuple[str, _Group]]:
    """Splits, where there are several; else all comparisons."""
    splits = report["facets"].get("split", {})
    if with_overall or len(splits) < 2:
        yield "all", report["overall"]
    if len(splits) > 1:
        yield from ((_readable(value), group) for value, group in splits.items())


def _on(group: _Group) -> str:
    failed = f", {count(group['n_failed'])} failed" if group["n_failed"] else ""
    gold = _clearest(group)
    against = f"\nagainst gold: {decimal(gold['accuracy']['estimate'])}" if gold else ""
    return f"{count(group['n'])} comparisons{failed}{against}"


def _clearest(group: _Group) -> Mapping[str, Any] | None:
    """The figures against gold over the comparisons that differ most clearly."""
    gold: Sequence[Mapping[str, Any]] = group.get("gold", ())
    return max(gold, key=lambda entry: float(entry["min_difference"]), default=None)


def _estimate(interval: Mapping[str, Any] | None) -> Estimate | None:
    if interval is None or interval["estimate"] is None:
        return None
    return Estimate(interval["estimate"], interval["low"], interval["high"])


def _readable(name: str) -> str:
    return name.replace("_", " ")
