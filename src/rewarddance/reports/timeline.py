"""States over time as a coloured band, one row a run."""

from collections.abc import Mapping
from itertools import pairwise

from rewarddance.reports.numbers import round_ticks, tick
from rewarddance.reports.sections import State, Timeline, TimelineRow
from rewarddance.reports.svg import Scale, drawing, element, label, shortened, text_width

STATE_COLOURS: Mapping[State, str] = {
    "healthy": "#00795a",
    "warning": "#d99a00",
    "hacking": "#b3261e",
    "unknown": "#b9c1cb",
}

_WIDTH, _RIGHT = 1040.0, 1026.0
_TOP, _BAND, _ACTION = 30.0, 20.0, 20.0
_LABEL_CHARACTERS = 28


def draw_timeline(timeline: Timeline) -> str:
    """The band as SVG, with a legend of the states above and the axis below.

    Args:
        timeline: With at least one verdict.
    """
    names = [shortened(row.label, _LABEL_CHARACTERS) for row in timeline.rows]
    left = max(map(text_width, names)) + 16 if len(names) > 1 else 14.0
    scale = Scale(*_range(timeline), left, _RIGHT)
    bottom = _TOP + len(names) * (_BAND + _ACTION)
    parts = [_legend(timeline, left), _axis(timeline, scale, bottom)]
    for number, (row, name) in enumerate(zip(timeline.rows, names, strict=True)):
        top = _TOP + number * (_BAND + _ACTION) + _ACTION
        parts.append(_band(row, scale, top))
        if len(names) > 1:
            parts.append(label(name, left - 10, top + _BAND / 2 + 4, text_anchor="end", class_="name"))
    states = ", ".join(
        f"{name}: {' '.join(verdict.state for verdict in row.verdicts)}"
        for row, name in zip(timeline.rows, names, strict=True)
    )
    return drawing("".join(parts), _WIDTH, bottom + 40, f"{timeline.title} over {timeline.x_label}, {states}")


def _band(row: TimelineRow, scale: Scale, top: float) -> str:
    """Each verdict fills the time that is nearer to it than to its neighbours."""
    moments = [verdict.x for verdict in row.verdicts]
    borders = [moments[0], *((one + other) / 2 for one, other in pairwise(moments)), moments[-1]]
    parts, free_from = [], 0.0
    for verdict, start, end in zip(row.verdicts, borders, borders[1:], strict=False):
        x, width = scale(start), max(scale(end) - scale(start) - 1.5, 5.0)
        parts.append(element("rect", x=x, y=top, width=width, height=_BAND, rx=3, fill=STATE_COLOURS[verdict.state]))
        at = scale(verdict.x)
        if verdict.action and at >= free_from:
            # A word that would touch the one before is left out; the list below has it.
            anchor = "end" if at + text_width(verdict.action) > _RIGHT else "start"
            flag = f"{at:.1f},{top - 2:.1f} {at - 4:.1f},{top - 9:.1f} {at + 4:.1f},{top - 9:.1f}"
            parts.append(element("polygon", points=flag, fill=STATE_COLOURS[verdict.state]))
            beside = at + 8 if anchor == "start" else at - 8
            parts.append(label(verdict.action, beside, top - 3, class_="tick", text_anchor=anchor))
            free_from = at + text_width(verdict.action) + 16
    return "".join(parts)


def _legend(timeline: Timeline, left: float) -> str:
    shown = {verdict.state for row in timeline.rows for verdict in row.verdicts}
    parts, x = [], left
    for state, colour in STATE_COLOURS.items():
        if state in shown:
            parts.append(element("rect", x=x, y=6, width=12, height=12, rx=3, fill=colour))
            parts.append(label(state, x + 18, 16, class_="name"))
            x += text_width(state) + 44
    return "".join(parts)


def _axis(timeline: Timeline, scale: Scale, bottom: float) -> str:
    parts = [element("line", x1=scale.start, x2=scale.end, y1=bottom + 4, y2=bottom + 4, class_="base")]
    for value in round_ticks(scale.low, scale.high, 10):
        x = scale(value)
        parts.append(element("line", x1=x, x2=x, y1=bottom + 4, y2=bottom + 8, class_="base"))
        parts.append(label(tick(value), x, bottom + 21, class_="tick", text_anchor="middle"))
    middle = (scale.start + scale.end) / 2
    parts.append(label(timeline.x_label, middle, bottom + 37, class_="axis", text_anchor="middle"))
    return "".join(parts)


def _range(timeline: Timeline) -> tuple[float, float]:
    moments = [verdict.x for row in timeline.rows for verdict in row.verdicts]
    low, high = min(moments), max(moments)
    return (low, high) if low < high else (low - 0.5, high + 0.5)
