"""Estimates with their intervals, one row a group."""

from rewarddance.reports.numbers import decimal, padded_range, round_ticks, tick
from rewarddance.reports.sections import Estimate, IntervalChart
from rewarddance.reports.svg import (
    COLOURS,
    MARKS,
    Scale,
    drawing,
    element,
    label,
    mark,
    shortened,
    text_width,
)

_WIDTH = 520.0
_TOP = 36.0
_LINE = 19.0
_ROW_GAP = 12.0
_GUIDE_HEIGHT = 12.0  # its name stands below the rows
_LABEL_CHARACTERS = 24
_VALUE_WIDTH = 46.0


def draw_interval_chart(chart: IntervalChart) -> str:
    """The chart as SVG.

    Args:
        chart: With at least one estimate.
    """
    labels = [shortened(row.label, _LABEL_CHARACTERS) for row in chart.rows]
    left = max(map(text_width, labels)) + 16
    row_height = _LINE * len(chart.names) + _ROW_GAP
    bottom = _TOP + row_height * len(chart.rows) + (_GUIDE_HEIGHT if chart.guide else 0)
    scale = Scale(*_range(chart), left, _WIDTH - _VALUE_WIDTH - 10)
    parts = [_legend(chart, left), _grid(chart, scale, bottom)]
    for number, (row, name) in enumerate(zip(chart.rows, labels, strict=True)):
        top = _TOP + number * row_height
        parts.append(label(name, left - 12, top + row_height / 2 + 4, text_anchor="end", class_="name"))
        for place, estimate in enumerate(row.estimates):
            if estimate is not None:
                parts.append(_estimate(estimate, place, top + _ROW_GAP / 2 + _LINE * (place + 0.5), scale))
    described = f"{chart.title}: {chart.x_label} of {', '.join(chart.names)} for {', '.join(labels)}"
    return drawing("".join(parts), _WIDTH, bottom + 42, described)


def _estimate(estimate: Estimate, place: int, y: float, scale: Scale) -> str:
    colour = COLOURS[place % len(COLOURS)]
    parts = []
    if estimate.low is not None and estimate.high is not None:
        low, high = (min(max(scale(end), scale.start), scale.end) for end in (estimate.low, estimate.high))
        parts.append(element("line", x1=low, x2=high, y1=y, y2=y, stroke=colour, stroke_width=2.4, stroke_opacity=0.55))
    parts.append(mark(MARKS[place % len(MARKS)], scale(estimate.value), y, colour, 5))
    parts.append(label(decimal(estimate.value), _WIDTH - 4, y + 4, fill=colour, text_anchor="end", class_="value"))
    return "".join(parts)


def _legend(chart: IntervalChart, left: float) -> str:
    if len(chart.names) == 1:
        return ""
    parts, x = [], left
    for place, name in enumerate(chart.names):
        text, colour = shortened(name, _LABEL_CHARACTERS), COLOURS[place % len(COLOURS)]
        parts.append(mark(MARKS[place % len(MARKS)], x + 5, 13, colour, 5))
        parts.append(label(text, x + 15, 17, fill=colour, font_weight="600"))
        x += text_width(text) + 44
    return "".join(parts)


def _grid(chart: IntervalChart, scale: Scale, bottom: float) -> str:
    parts = []
    for value in round_ticks(scale.low, scale.high, 5):
        x = scale(value)
        parts.append(element("line", x1=x, x2=x, y1=_TOP - 8, y2=bottom, class_="grid"))
        parts.append(label(tick(value), x, bottom + 17, class_="tick", text_anchor="middle"))
    if chart.guide is not None and scale.low <= chart.guide.value <= scale.high:
        x = scale(chart.guide.value)
        parts.append(element("line", x1=x, x2=x, y1=_TOP - 8, y2=bottom, class_="guide"))
        is_left = x < (scale.start + scale.end) / 2
        beside, anchor = (x + 5, "start") if is_left else (x - 5, "end")
        parts.append(label(chart.guide.label, beside, bottom - 5, class_="tick halo", text_anchor=anchor))
    parts.append(element("line", x1=scale.start, x2=scale.end, y1=bottom, y2=bottom, class_="base"))
    parts.append(label(chart.x_label, (scale.start + scale.end) / 2, bottom + 35, class_="axis", text_anchor="middle"))
    return "".join(parts)


def _range(chart: IntervalChart) -> tuple[float, float]:
    if chart.x_range is not None:
        return chart.x_range
    known = [estimate for row in chart.rows for estimate in row.estimates if estimate is not None]
    ends = [end for estimate in known for end in (estimate.value, estimate.low, estimate.high)]
    return padded_range([end for end in ends if end is not None] + ([chart.guide.value] if chart.guide else []))
