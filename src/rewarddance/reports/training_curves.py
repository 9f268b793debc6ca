"""Charts of `metrics.jsonl`: one for each number in it, the same number of several runs in one chart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewarddance.reports.json_files import STEP, finite_number
from rewarddance.reports.run_files import RunFiles
from rewarddance.reports.sections import Charts, Estimate, Figure, Figures, Guide, LineChart, Point, Section, Series

_NOT_CHARTED = {STEP, "epoch"}
_SMOOTH = ("learning_rate", "held_out_accuracy")
_OF_METHOD = "method/"


@dataclass(frozen=True, slots=True)
class _Known:
    """How a number that every run has is shown."""

    title: str
    y_label: str
    guide: Guide | None = None


_KNOWN: Mapping[str, _Known] = {
    "loss": _Known("Training loss", "nats a comparison", Guide(math.log(2), "uninformed, ln 2")),
    "held_out_accuracy": _Known("Accuracy on held-out comparisons", "share right", Guide(0.5, "chance")),
    "accuracy": _Known("Accuracy on the comparisons being learned", "share right", Guide(0.5, "chance")),
    "learning_rate": _Known("Learning rate", "step size"),
    "gradient_norm": _Known("Gradient norm", "before clipping"),
    "comparisons_per_second": _Known("Speed", "comparisons a second"),
}

_KNOWN_OF_ALIGNMENT: Mapping[str, _Known] = {
    "reward": _Known("Training reward", "log-odds"),
    "score": _Known("Training score", "mean P(yes)", Guide(0.5, "as good as the reference image")),
    "loss": _Known("Training loss", "of the method"),
    "reward_spread": _Known("Spread of training rewards within a prompt", "standard deviation, log-odds"),
    "kl": _Known("Distance to the reference policy, training batches", "KL or velocity distance"),
    "learning_rate": _Known("Learning rate", "step size"),
    "gradient_norm": _Known("Gradient norm", "before clipping"),
    "images_per_second": _Known("Speed", "pictures a second"),
}


def training_section(runs: Sequence[RunFiles]) -> Section | None:
    """Every number that the runs of reward models logged; None when they logged none."""
    return _section("Training", [run for run in runs if run.alignment is None], _KNOWN)


def alignment_training_section(runs: Sequence[RunFiles]) -> Section | None:
    """Every number that the alignment runs logged; None when they logged none."""
    return _section("Alignment, step by step", [run for run in runs if run.alignment], _KNOWN_OF_ALIGNMENT)


def _section(title: str, runs: Sequence[RunFiles], known: Mapping[str, _Known]) -> Section | None:
    logged = dict.fromkeys(key for run in runs for row in run.metrics for key in row)
    keys = [key for key in known if key in logged] + [key for key in logged if key not in known]
    charts = [_chart(key, runs, known) for key in keys if key not in _NOT_CHARTED]
    drawn = tuple(chart for chart in charts if chart is not None)
    if not drawn:
        return None
    noisy = "Faint lines are the values as logged, strong lines their moving average."
    return Section(title, (Charts(drawn),), noisy)


def training_figures(runs: Sequence[RunFiles]) -> Section | None:
    """Best held-out accuracy and last loss of each run, for runs that were not evaluated otherwise."""
    figures = []
    for run in runs:
        if run.alignment is not None:
            continue
        accuracy, loss = _points(run.metrics, "held_out_accuracy"), _points(run.metrics, "loss")
        if accuracy:
            best = max(accuracy, key=lambda point: point.y)
            figures.append(Figure(f"{run.name}: held-out accuracy", Estimate(best.y), f"best, at step {best.x:.0f}"))
        if loss:
            figures.append(Figure(f"{run.name}: loss", Estimate(loss[-1].y), f"at step {loss[-1].x:.0f}, the last"))
    return Section("Key figures", (Figures(tuple(figures)),)) if figures else None


def _chart(key: str, runs: Sequence[RunFiles], known: Mapping[str, _Known]) -> LineChart | None:
    series = []
    for run in runs:
        points = _points(run.metrics, key)
        if points:
            is_dense = len(points) > 20
            is_noisy = is_dense and key not in _SMOOTH
            series.append(Series(run.name, points, is_noisy=is_noisy, has_markers=not is_dense))
    if not series:
        return None
    shown = known.get(key) or _Known(_titled(key), "of the method" if key.startswith(_OF_METHOD) else "value")
    return LineChart(shown.title, "optimizer step", shown.y_label, tuple(series), guide=shown.guide)


def _titled(key: str) -> str:
    words = key.removeprefix(_OF_METHOD).replace("_", " ").replace("/", ": ")
    return words[:1].upper() + words[1:] if key.startswith(_OF_METHOD) else words


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[Point, ...]:
    known = ((float(row[STEP]), finite_number(row.get(key))) for row in rows)
    return tuple(Point(step, value) for step, value in known if value is not None)
