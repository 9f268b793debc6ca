"""Lines over a common axis, named at their ends; also the reliability diagram."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rewarddance.reports.numbers import padded_range, round_ticks, tick
from rewarddance.reports.sections import LineChart, Point, Series
from rewarddance.reports.svg import (
    COLOURS,
    Scale,
    drawing,
    element,
    label,
    mark,
    polyline,
    shortened,
    text_width,
)

_WIDTH, _HEIGHT = 520.0, 300.0
_TOP, _BOTTOM, _LEFT = 30.0, 258.0, 52.0
_LABEL_CHARACTERS = 20
_LABEL_HEIGHT = 14.0
_POINTS = 400
_MOVING_SHARE = 0.04


def draw_line_chart(chart: LineChart) -> str:
    """The chart as SVG.

    Args:
        chart: With at least one point.
    """
    names = [shortened(series.name, _LABEL_CHARACTERS) for series in chart.series]
    right = _WIDTH - 14 - (max(map(text_width, names)) + 8 if len(names) > 1 else 0)
    lines = [_thinned(series) for series in chart.series]
    x_scale = Scale(*_x_range(chart, lines), _LEFT, right)
    y_scale = Scale(*_y_range(chart, lines), _BOTTOM, _TOP + _LABEL_HEIGHT * len(chart.events))
    parts = [_grid(chart, x_scale, y_scale), _comparisons(chart, x_scale, y_scale), _events(chart, x_scale)]
    for number, (series, points) in enumerate(zip(chart.series, lines, strict=True)):
        parts.append(_line(series, points, COLOURS[number % len(COLOURS)], x_scale, y_scale))
    if len(names) > 1:
        ends = [y_scale(_drawn(series, points)[-1].y) for series, points in zip(chart.series, lines, strict=True)]
        for number, (name, y) in enumerate(zip(names, _apart(ends), strict=True)):
            colour = COLOURS[number % len(COLOURS)]
            parts.append(label(name, right + 8, y + 4, fill=colour, font_weight="600"))
    described = f"{chart.title}: {chart.y_label} over {chart.x_label}, {', '.join(names)}"
    return drawing("".join(parts), _WIDTH, _HEIGHT, described)


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """Mean of the `window` values around each; at the ends, of those that there are."""
    array, reach, index = np.asarray(values, dtype=float), window // 2, np.arange(len(values))
    sums = np.concatenate([[0.0], np.cumsum(array)])
    starts, ends = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(array))
    return [float(value) for value in (sums[ends] - sums[starts]) / (ends - starts)]


def _line(series: Series, points: tuple[Point, ...], colour: str, x_scale: Scale, y_scale: Scale) -> str:
    parts = []
    band = [point for point in points if point.low is not None and point.high is not None]
    if len(band) > 1:
        edge = [(x_scale(p.x), y_scale(p.high or 0.0)) for p in band]
        edge += [(x_scale(p.x), y_scale(p.low or 0.0)) for p in reversed(band)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
        parts.append(element("polygon", points=path, fill=colour, fill_opacity=0.13))
    if series.is_noisy:
        faint = [(x_scale(point.x), y_scale(point.y)) for point in points]
        parts.append(polyline(faint, stroke=colour, stroke_width=1, stroke_opacity=0.28))
    drawn = [(x_scale(point.x), y_scale(point.y)) for point in _drawn(series, points)]
    parts.append(polyline(drawn, stroke=colour, stroke_width=2.2, stroke_linejoin="round"))
    if series.has_markers or len(drawn) == 1:
        parts += [mark("circle", x, y, colour) for x, y in drawn]
    return "".join(parts)


def _drawn(series: Series, points: tuple[Point, ...]) -> list[Point]:
    if not series.is_noisy:
        return list(points)
    window = max(3, round(2 * _MOVING_SHARE * len(points)))
    averages = moving_average([point.y for point in points], window)
    return [Point(point.x, average) for point, average in zip(points, averages, strict=True)]


def _grid(chart: LineChart, x_scale: Scale, y_scale: Scale) -> str:
    parts = [label(chart.y_label, 4, 14, class_="axis")]
    for value in round_ticks(y_scale.low, y_scale.high, 5):
        y = y_scale(value)
        parts.append(element("line", x1=_LEFT, x2=x_scale.end, y1=y, y2=y, class_="grid"))
        parts.append(label(tick(value), _LEFT - 8, y + 4, class_="tick", text_anchor="end"))
    for value in round_ticks(x_scale.low, x_scale.high, 6):
        x = x_scale(value)
        parts.append(element("line", x1=x, x2=x, y1=_BOTTOM, y2=_BOTTOM + 4, class_="base"))
        parts.append(label(tick(value), x, _BOTTOM + 18, class_="tick", text_anchor="middle"))
    parts.append(element("line", x1=_LEFT, x2=x_scale.end, y1=_BOTTOM, y2=_BOTTOM, class_="base"))
    middle = (_LEFT + x_scale.end) / 2
    parts.append(label(chart.x_label, middle, _HEIGHT - 6, class_="axis", text_anchor="middle"))
    return "".join(parts)


def _comparisons(chart: LineChart, x_scale: Scale, y_scale: Scale) -> str:
    parts = []
    if chart.guide is not None and y_scale.low <= chart.guide.value <= y_scale.high:
        y = y_scale(chart.guide.value)
        parts.append(element("line", x1=_LEFT, x2=x_scale.end, y1=y, y2=y, class_="guide"))
        parts.append(label(chart.guide.label, x_scale.end - 2, y - 5, class_="tick halo", text_anchor="end"))
    if chart.diagonal_label is not None:
        low, high = max(x_scale.low, y_scale.low), min(x_scale.high, y_scale.high)
        ends = {"x1": x_scale(low), "y1": y_scale(low), "x2": x_scale(high), "y2": y_scale(high)}
        parts.append(element("line", class_="guide", **ends))
        at = low + 0.3 * (high - low)  # a judge that is too sure leaves the space below free on this side
        parts.append(label(chart.diagonal_label, x_scale(at) + 10, y_scale(at) + 14, class_="tick halo"))
    return "".join(parts)


def _events(chart: LineChart, x_scale: Scale) -> str:
    """Lines from the axis up to their names, which stand one below the other above the curves."""
    parts = []
    for number, event in enumerate(chart.events):
        x, is_left = x_scale(event.value), event.value < (x_scale.low + x_scale.high) / 2
        top, beside = _TOP + _LABEL_HEIGHT * number, x + 5 if is_left else x - 5
        parts.append(element("line", x1=x, x2=x, y1=top - 9, y2=_BOTTOM, class_="guide"))
        parts.append(label(event.label, beside, top, class_="tick halo", text_anchor="start" if is_left else "end"))
    return "".join(parts)


def _x_range(chart: LineChart, lines: list[tuple[Point, ...]]) -> tuple[float, float]:
    if chart.x_range is not None:
        return chart.x_range
    values = [point.x for points in lines for point in points]
    low, high = min(values), max(values)
    return (low, high) if low < high else padded_range(values)


def _y_range(chart: LineChart, lines: list[tuple[Point, ...]]) -> tuple[float, float]:
    if chart.y_range is not None:
        return chart.y_range
    values = [value for points in lines for point in points for value in (point.y, point.low, point.high)]
    known = [value for value in values if value is not None]
    return padded_range(known + ([chart.guide.value] if chart.guide else []))


def _thinned(series: Series) -> tuple[Point, ...]:
    """At most as many points as a screen can tell apart: means of neighbours."""
    points = series.points
    if len(points) <= _POINTS:
        return points
    parts = np.array_split(np.array([(point.x, point.y) for point in points]), _POINTS)
    return tuple(Point(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts)


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights of labels, moved as little as keeps them from touching."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, dtype=float)
    for _ in range(50):
        for above, below in pairwise(order):
            overlap = _LABEL_HEIGHT - (placed[below] - placed[above])
            if overlap > 0:
                placed[above] -= overlap / 2
                placed[below] += overlap / 2
    return [float(height) for height in placed]
