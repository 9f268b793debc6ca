import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from rewarddance.reports.interval_chart import draw_interval_chart
from rewarddance.reports.line_chart import draw_line_chart, moving_average
from rewarddance.reports.numbers import padded_range, round_ticks, tick
from rewarddance.reports.sections import Estimate, Guide, IntervalChart, IntervalRow, LineChart, Point, Series


def chart_of(*series: Series, **more: object) -> LineChart:
    return LineChart("title", "x", "y", series, **more)


def heights(svg: str) -> list[float]:
    """Heights of the points of the first line."""
    points = re.search(r'<polyline points="([^"]*)"', svg).group(1)
    return [float(point.split(",")[1]) for point in points.split()]


def test_a_chart_is_well_formed_and_says_what_it_shows() -> None:
    svg = ElementTree.fromstring(draw_line_chart(chart_of(Series("one", (Point(0, 1), Point(1, 3))))))
    assert svg.attrib["aria-label"] == "title: y over x, one"


def test_higher_values_stand_higher_and_in_proportion() -> None:
    line = Series("one", (Point(0, 0.0), Point(1, 0.5), Point(2, 1.0)))
    low, middle, high = heights(draw_line_chart(chart_of(line, y_range=(0.0, 1.0))))
    assert low > middle > high
    assert middle == pytest.approx((low + high) / 2)


def test_a_single_point_is_drawn_as_a_mark() -> None:
    assert "<circle" in draw_line_chart(chart_of(Series("one", (Point(5, 0.7),))))


def test_a_constant_line_can_be_drawn() -> None:
    low, high = heights(draw_line_chart(chart_of(Series("one", (Point(0, 0.0), Point(1, 0.0))))))
    assert low == high


def test_a_long_run_is_thinned_to_its_means() -> None:
    points = tuple(Point(float(index), float(index % 2)) for index in range(20_000))
    svg = draw_line_chart(chart_of(Series("one", points), y_range=(0.0, 1.0)))
    assert len(svg) < 30_000
    low, high = 258.0, 30.0  # pixels of 0 and 1; means of neighbours are one half
    assert heights(svg) == pytest.approx([(low + high) / 2] * 400)


def test_names_at_the_ends_of_lines_do_not_overlap() -> None:
    lines = [Series(name, (Point(0, 0), Point(1, 1.0))) for name in ("one", "two", "three")]
    svg = ElementTree.fromstring(draw_line_chart(chart_of(*lines)))
    places = sorted(float(text.attrib["y"]) for text in svg.iter() if text.text in ("one", "two", "three"))
    assert all(below - above >= 13.9 for above, below in pairwise(places))


def test_a_guide_is_inside_the_axis() -> None:
    svg = draw_line_chart(chart_of(Series("one", (Point(0, 0.1), Point(1, 0.2))), guide=Guide(0.693, "uninformed")))
    assert "uninformed" in svg


def test_an_interval_is_drawn_around_its_estimate() -> None:
    rows = (IntervalRow("all", (Estimate(0.5, 0.4, 0.7),)),)
    svg = ElementTree.fromstring(draw_interval_chart(IntervalChart("t", "accuracy", ("m",), rows, x_range=(0.0, 1.0))))
    circle = next(part for part in svg.iter() if part.tag.endswith("circle"))
    whisker = next(part for part in svg.iter() if part.attrib.get("stroke-opacity") == "0.55")
    start, end, centre = (float(value) for value in (whisker.attrib["x1"], whisker.attrib["x2"], circle.attrib["cx"]))
    assert (end - centre) == pytest.approx(2 * (centre - start), rel=1e-3)  # 0.2 to the right, 0.1 to the left


def test_an_estimate_without_interval_has_no_whisker() -> None:
    rows = (IntervalRow("all", (Estimate(0.5), None)),)
    svg = draw_interval_chart(IntervalChart("t", "accuracy", ("m", "n"), rows))
    assert "stroke-opacity" not in svg


def test_moving_average_by_hand() -> None:
    assert moving_average([1.0, 2.0, 6.0, 0.0], window=3) == pytest.approx([1.5, 3.0, 8 / 3, 3.0])


def test_ticks_are_round_and_inside() -> None:
    assert round_ticks(0.0, 1.0, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert round_ticks(-37, 412, 6) == [0, 100, 200, 300, 400]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.2, "0.2"), (1e-4, "1e\u22124"), (1500.0, "1\u202f500"), (-2.5, "\u22122.5"), (2e6, "2e6")],
)
def test_ticks_are_short(value: float, text: str) -> None:
    assert tick(value) == text


def test_a_range_is_never_empty() -> None:
    assert padded_range([0.0]) == (-1.0, 1.0)
    low, high = padded_range([3.0, 3.0])
    assert low < 3.0 < high
