"""A chart as a file of its own, for documents that show pictures and no pages."""

import re
from importlib.resources import files
from pathlib import Path

from rewarddance.core.files import write_bytes_atomic
from rewarddance.reports.interval_chart import draw_interval_chart
from rewarddance.reports.line_chart import draw_line_chart
from rewarddance.reports.sections import IntervalChart, LineChart
from rewarddance.reports.svg import label

_COLOURS = "svg { --ink: #1c2430; --soft: #5a6472; }"
_TITLE_HEIGHT = 30.0
_MARGIN = 12.0
_SIZE = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')


def write_chart(chart: LineChart | IntervalChart, out: Path) -> None:
    """Write a chart with its title as an SVG file, on white so that it can be read on a dark page.

    Args:
        chart: With at least one point or estimate.
        out: The file; folders are made.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(out, chart_svg(chart).encode())


def chart_svg(chart: LineChart | IntervalChart) -> str:
    """The chart as a document that needs no style sheet."""
    inner = draw_line_chart(chart) if isinstance(chart, LineChart) else draw_interval_chart(chart)
    width, height = (float(side) for side in _SIZE.findall(inner)[0])
    style = _COLOURS + files("rewarddance.reports").joinpath("chart.css").read_text(encoding="utf-8")
    title = label(chart.title, _MARGIN, 22, class_="name", font_size=15, font_weight="600")
    content = inner[inner.index(">") + 1 : inner.rindex("</svg>")]
    whole, tall = width + 2 * _MARGIN, height + _TITLE_HEIGHT + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole:g}" height="{tall:g}" viewBox="0 0 {whole:g} {tall:g}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{title}'
        f'<g transform="translate({_MARGIN:g} {_TITLE_HEIGHT:g})">{content}</g></svg>\n'
    )
