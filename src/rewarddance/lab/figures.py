"""Figures of the studies, drawn from what they have recorded: the pictures of `docs/experiments.md`.

A figure needs nothing but the results file of its study, so that it can be drawn again without a run.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rewarddance.core.errors import UsageError
from rewarddance.lab.reasoning_study import CURVE_SIZE
from rewarddance.lab.reward_study import COUNTS, SIZES
from rewarddance.lab.seeds import seed_interval
from rewarddance.reports.chart_file import write_chart
from rewarddance.reports.sections import Estimate, Guide, IntervalChart, IntervalRow, LineChart, Point, Series

Chart = LineChart | IntervalChart
Results = Mapping[str, Any]

_KINDS = ("pairwise", "pointwise", "scalar")
_SEARCHES = {"best_of_n": "best of N", "paths": "search over paths", "particles": "particles"}
_INSTRUCTIONS = {"generic": "one sentence", "overall": "task-aware"}
_REASONING_WAYS = {
    "answer_first": "answer first",
    "reason_first": "reason first",
    "student": "its one-token student",
}
_REASONED = {"plain": "without rationales", "answer_first": "with rationales"}


def write_figures(results: Path, out: Path) -> list[Path]:
    """Draw every figure whose study has been made.

    Args:
        results: Folder of the studies' results.
        out: Folder for the pictures, SVG.

    Returns:
        Their files.

    Raises:
        UsageError: No study has been made.
    """
    written = []
    for study, charts_of in FIGURES.items():
        file = results / f"{study}.json"
        if not file.is_file():
            continue
        try:
            charts = charts_of(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UsageError(f"{file} is damaged, or of another version's study; make it again") from error
        for name, chart in charts.items():
            written.append(out / f"{name}.svg")
            write_chart(chart, written[-1])
    if not written:
        raise UsageError(f"{results} holds no results of a study; make some with `rewarddance lab study`")
    return written


def alignment_figures(results: Results) -> dict[str, Chart]:
    """Gold, proxy and spread of bare ReFL over optimizer steps, by size of the reward model.

    Source:
        RewardDance, arXiv:2509.08826, Figures 2 and 5.
    """
    by_size = {size: _bare_runs(results["rows"], size) for size in SIZES}
    by_size = {size: runs for size, runs in by_size.items() if runs}
    if not by_size:
        return {}
    counts = sorted({len(runs) for runs in by_size.values()})
    shown = {
        "alignment_gold": (f"Gold: bare ReFL, {' or '.join(map(str, counts))} runs a size", "gold", _gold),
        "alignment_proxy": ("The reward that was optimised", "log-odds", lambda one: one["proxy"]),
        "alignment_spread": ("Spread of the reward within a prompt", "log-odds", lambda one: one["spread"]),
    }
    return {
        name: LineChart(title, "optimizer steps", unit, tuple(_by_step(*one, read) for one in by_size.items()))
        for name, (title, unit, read) in shown.items()
    }


def guard_figures(results: Results) -> dict[str, Chart]:
    """The guard beside the paper's signal: hacking runs that were caught, and false alarms."""
    summary = results["summary"]
    detectors = {"guard": summary, "its defaults": summary["guard_defaults"], "spread alone": summary["spread_alone"]}
    counted = {
        "hacking runs caught": ("caught", "catch_interval", summary["hacking_runs"]),
        "false alarms": ("false_alarms", "false_alarm_interval", summary["healthy_runs"]),
    }
    if not all(total for _, _, total in counted.values()):
        return {}
    rows = tuple(
        IntervalRow(
            label,
            tuple(Estimate(found[count] / total, *found[interval]) for count, interval, total in counted.values()),
        )
        for label, found in detectors.items()
    )
    return {"guard": IntervalChart("Who notices", "share of runs", tuple(counted), rows, x_range=(0.0, 1.0))}


def search_figures(results: Results) -> dict[str, Chart]:
    """Gold of what a search finds over its function evaluations, with the largest verifier and the smallest."""
    charts: dict[str, Chart] = {}
    for size in (SIZES[-1], SIZES[0]):
        series = tuple(
            Series(name, points, has_markers=True)
            for way, name in _SEARCHES.items()
            if (points := tuple(_frontier(results["frontier"].values(), size, way)))
        )
        if series:
            title = f"Search at inference, verifier {size}"
            charts[f"search_{size}"] = LineChart(title, "velocities of a prompt", "gold of the winner", series)
    return charts


def overoptimization_figures(results: Results) -> dict[str, Chart]:
    """Gain of gold over the KL of best of n, one line a size, for each paradigm."""
    by_n = {point["n"]: point["kl"] for curve in results["curves"] for point in curve["points"]}
    charts: dict[str, Chart] = {}
    for kind in _KINDS:
        series = []
        for size in SIZES:
            gains = results["summary"].get(f"{size} {kind}", {}).get("gold_gain_interval", {})
            points = (
                Point(by_n[int(n)], gain["mean"], gain["low"], gain["high"])
                for n, gain in sorted(gains.items(), key=lambda pair: int(pair[0]))
            )
            series.append(Series(size, tuple(points), has_markers=True))
        series = [one for one in series if one.points]
        if not series:
            continue
        title = f"Best of 1 to {max(by_n)}, {kind} reward models"
        charts[f"overoptimization_{kind}"] = LineChart(title, "KL of best of n, nats", "gain of gold", tuple(series))
    return charts


def context_figures(results: Results) -> dict[str, Chart]:
    """What criteria in the question add to accuracy, by size."""
    sizes = results["summary"]["instructions"]
    rows = []
    for size in (size for size in SIZES if size in sizes):
        found = (sizes[size].get(name) for name in _INSTRUCTIONS)
        gains = [one and one["test_out"]["gain_by_prompt"] for one in found]
        if any(gains):
            rows.append(IntervalRow(size, tuple(gain and _estimate(gain) for gain in gains)))
    if not rows:
        return {}
    title = "Criteria in the question, out of domain"
    guide = Guide(0.0, "no criteria")
    return {
        "instructions": IntervalChart(
            title, "gain of accuracy", tuple(_INSTRUCTIONS.values()), tuple(rows), guide=guide
        )
    }


def reasoning_figures(results: Results) -> dict[str, Chart]:
    """The learning curve with and without rationales, and what every way of judging gains."""
    charts: dict[str, Chart] = {}
    curves = results["summary"].get(CURVE_SIZE, {})
    lines = ((name, tuple(_learned(curves, way))) for way, name in _REASONED.items())
    if series := tuple(Series(name, points, has_markers=True) for name, points in lines if points):
        title = f"Rationales, by number of comparisons ({CURVE_SIZE})"
        charts["rationales_curve"] = LineChart(title, "comparisons", "accuracy out of domain", series)
    whole = str(COUNTS["train"])
    sizes = {size: summary[whole] for size, summary in results["summary"].items() if whole in summary}
    rows: dict[str, Results] = {size: sizes[size] for size in SIZES if size in sizes}
    if rows:
        charts["reasoning"] = _reasoned_gains("Reasoning over no rationales, out of domain", rows, _REASONING_WAYS)
    return charts


def describing_figures(name: str, title: str, results: Results) -> dict[str, Chart]:
    """What every way of judging gains for a base that can write, by its size or by the number of comparisons.

    Args:
        name: Of the study.
        title: Says which base.
        results: What the study has recorded.
    """
    cells = {(size, count): found for size, counts in results["summary"].items() for count, found in counts.items()}
    if not cells:
        return {}
    has_one_count = len({count for _, count in cells}) == 1
    rows = {size if has_one_count else f"{count} comparisons": found for (size, count), found in cells.items()}
    ways = {**_REASONING_WAYS, "student": "its student", "plain_student": "student of plain"}
    ways = {way: label for way, label in ways.items() if all(way in found for found in rows.values())}
    return {name: _reasoned_gains(f"{title}: over no rationales, out of domain", rows, ways)}


FIGURES: dict[str, Callable[[Results], dict[str, Chart]]] = {
    "alignment": alignment_figures,
    "guard": guard_figures,
    "search": search_figures,
    "overoptimization": overoptimization_figures,
    "context": context_figures,
    "reasoning": reasoning_figures,
    "describing": partial(describing_figures, "describing", "A base that can write"),
    "describing_alone": partial(describing_figures, "describing_alone", "Never compared before"),
}
"""By study: its figures, by the names of their files."""


def _reasoned_gains(title: str, rows: Mapping[str, Results], ways: Mapping[str, str]) -> IntervalChart:
    """Gains of ways over `plain` out of domain: a row a label, a mark a way."""
    marks = tuple(
        IntervalRow(label, tuple(_estimate(found[way]["test_out"]["gain_by_prompt"]) for way in ways))
        for label, found in rows.items()
    )
    guide = Guide(0.0, "without rationales")
    return IntervalChart(title, "gain of accuracy", tuple(ways.values()), marks, guide=guide)


def _bare_runs(rows: Sequence[Results], size: str) -> list[Results]:
    return [row for row in rows if (row["way"], row["size"]) == ("refl", size)]


def _gold(evaluation: Results) -> float:
    return float(evaluation["extra"]["gold"])


def _by_step(name: str, runs: Sequence[Results], read: Callable[[Results], float]) -> Series:
    """Mean over runs with its 95 % t interval; without one for a single run."""
    points = []
    for evaluations in zip(*(run["evaluations"] for run in runs), strict=True):
        found = seed_interval([read(one) for one in evaluations])
        points.append(Point(evaluations[0]["optimizer_step"], found["mean"], found["low"], found["high"]))
    return Series(name, tuple(points))


def _frontier(scales: Iterable[Results], size: str, way: str) -> Iterable[Point]:
    found = [scale[size][way] for scale in scales if way in scale.get(size, {})]
    for one in sorted(found, key=lambda figures: figures["budget"]["velocities"]):
        gold = one["gold"]
        yield Point(one["budget"]["velocities"], gold["estimate"], gold["low"], gold["high"])


def _learned(curves: Results, way: str) -> Iterable[Point]:
    for count, ways in sorted(curves.items(), key=lambda pair: int(pair[0])):
        accuracy = ways[way]["test_out"]["accuracy"]
        yield Point(int(count), accuracy["mean"], accuracy["low"], accuracy["high"])


def _estimate(interval: Results) -> Estimate:
    return Estimate(interval["estimate"], interval["low"], interval["high"])
