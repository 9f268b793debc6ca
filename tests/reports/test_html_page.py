import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rewarddance.reports.html_page import page_html, write_page
from rewarddance.reports.pictures import picture_uri
from rewarddance.reports.sections import (
    Charts,
    Column,
    Estimate,
    Figure,
    Figures,
    Guide,
    IntervalChart,
    IntervalRow,
    LineChart,
    Page,
    Point,
    Score,
    Section,
    Series,
    Strip,
    StripImage,
    StripItem,
    Table,
    Text,
)

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>"\'&'


VOID = {"meta", "img", "br", "hr"}


class Tags(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: Page) -> Tags:
    tags = Tags()
    tags.feed(page_html(page))
    assert tags.open == []
    return tags


def page_of(*blocks: object) -> Page:
    return Page("A page", (Section("A section", blocks),))


def every_block(text: str) -> Page:
    image = Image.new("RGB", (4, 4), "red")
    lines = LineChart(text, text, text, (Series(text, (Point(0, 1), Point(1, 2))), Series(text, (Point(0, 1),))))
    with_guides = LineChart(text, text, text, (lines.series[0],), guide=Guide(1.5, text), diagonal_label=text)
    rows = (IntervalRow(text, (Estimate(0.5, 0.4, 0.6), None)),)
    blocks = (
        Figures((Figure(text, Estimate(0.5, 0.4, 0.6), text), Figure(text, text))),
        Table((Column(text, is_text=True), Column(text)), ((text, 1.0), (None, text)), title=text, caption=text),
        Charts((lines, with_guides)),
        IntervalChart(text, text, (text, text), rows, guide=Guide(0.5, text), caption=text),
        Strip(
            text, (StripItem(text, (StripImage(image, text),), (Score(text, 0.3, True), Score(text, None)), (text,)),)
        ),
        Text(text),
        Text(text, is_verbatim=True, fold_title=text),
    )
    return Page(text, (Section(text, blocks, text), Section(text, ())), text, ((text, text),))


def test_no_text_of_a_page_can_become_markup() -> None:
    hostile, harmless = parsed(every_block(HOSTILE)), parsed(every_block("harmless"))
    assert hostile.names == harmless.names
    assert "script" not in hostile.names
    assert HOSTILE in hostile.text


def test_a_page_needs_nothing_from_outside() -> None:
    page = every_block("text")
    addresses = [value for name, value in parsed(page).attributes if name in ("src", "href", "action", "data")]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in addresses)
    assert "url(" not in page_html(page)
    assert "@import" not in page_html(page)


def test_the_content_policy_forbids_scripts() -> None:
    policies = [value for name, value in parsed(page_of()).attributes if name == "content"]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policies


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    write_page(page_of(Text("bad \ud800 prompt")), out)
    assert "bad ? prompt" in out.read_text(encoding="utf-8")


def test_an_estimate_is_shown_with_its_interval() -> None:
    html = page_html(page_of(Figures((Figure("accuracy", Estimate(0.91234, 0.9, 0.92), "on 10"),))))
    assert "0.912" in html
    assert "0.900 to 0.920" in html


def test_what_is_not_known_is_a_dash() -> None:
    table = Table((Column("a"), Column("b"), Column("c")), ((None, float("nan"), Estimate(0.5)),))
    assert [text for text in parsed(page_of(table)).text if text in ("–", "0.500")] == ["–", "–", "0.500"]


def test_negative_numbers_have_a_minus_sign_and_counts_have_spaces() -> None:
    table = Table((Column("a", decimals=1), Column("b")), ((-1.5, 12_345),))
    assert {"\u22121.5", "12\u202f345"} <= set(parsed(page_of(table)).text)


def test_a_number_that_rounds_to_zero_has_no_sign() -> None:
    table = Table((Column("a"),), ((-0.0002,),))
    assert "0.000" in parsed(page_of(table)).text


@pytest.mark.parametrize(("best", "expected"), [("highest", "0.300"), ("lowest", "0.100")])
def test_the_best_of_a_column_is_bold(best: str, expected: str) -> None:
    table = Table((Column("a", best=best),), ((0.1,), (0.3,), (0.2,), (None,)))
    assert re.findall(r'<td class="best">([^<]*)</td>', page_html(page_of(table))) == [expected]


def test_small_images_are_enlarged_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    shown = decoded(picture_uri(Image.fromarray(pixels)))
    assert shown.size == (160, 160)
    np.testing.assert_array_equal(np.asarray(shown)[2::5, 2::5], pixels)


def test_large_images_are_reduced_with_their_shape() -> None:
    assert decoded(picture_uri(Image.new("RGB", (2000, 1000)))).size == (288, 144)


def test_an_image_that_cannot_be_read_is_said_to_be(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    strip = Strip("strip", (StripItem("prompt", (StripImage(broken),)),))
    assert picture_uri(broken) is None
    assert "unreadable" in parsed(page_of(strip)).text


def decoded(address: str | None) -> Image.Image:
    assert address is not None
    return Image.open(BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
