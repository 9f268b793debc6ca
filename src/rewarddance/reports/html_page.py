"""A page as one HTML file. Every text is escaped, and a content policy forbids scripts and outside addresses."""

import re
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path

from rewarddance.core.files import write_bytes_atomic
from rewarddance.reports.interval_chart import draw_interval_chart
from rewarddance.reports.line_chart import draw_line_chart
from rewarddance.reports.numbers import DASH, count, decimal
from rewarddance.reports.pictures import picture_uri
from rewarddance.reports.sections import (
    Block,
    Cell,
    Charts,
    Column,
    Estimate,
    Figure,
    Figures,
    Finding,
    IntervalChart,
    LineChart,
    Page,
    PictureRow,
    PictureSheet,
    PictureSheets,
    Score,
    Section,
    Strip,
    StripImage,
    StripItem,
    Table,
    Text,
    Timeline,
)
from rewarddance.reports.timeline import draw_timeline

PAGE_BEGINS = "<!doctype html>"

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_page(page: Page, out: Path) -> None:
    """Write a page as one self-contained file.

    Args:
        page: What it shows.
        out: The file; folders are made.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # A prompt may hold half a surrogate pair, which UTF-8 cannot.
    write_bytes_atomic(out, page_html(page).encode("utf-8", "replace"))


def page_html(page: Page) -> str:
    """The page as HTML."""
    folder = files("rewarddance.reports")
    style = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "chart.css"))
    links = "".join(f'<a href="#{_anchor(part.title)}">{escape(part.title)}</a>' for part in page.sections)
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in page.facts)
    return (
        f'{PAGE_BEGINS}\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(page.title)}</title><style>{style}</style></head><body>"
        f"<header><h1>{escape(page.title)}</h1>{_paragraphs(page.subtitle, 'subtitle')}"
        f"{f'<dl>{facts}</dl>' if facts else ''}{f'<nav>{links}</nav>' if len(page.sections) > 1 else ''}</header>"
        f"<main>{''.join(_section(part) for part in page.sections)}</main></body></html>\n"
    )


def _section(section: Section) -> str:
    blocks = "".join(map(_block, section.blocks))
    intro = _paragraphs(section.intro, "intro")
    return f'<section id="{_anchor(section.title)}"><h2>{escape(section.title)}</h2>{intro}{blocks}</section>'


def _block(block: Block) -> str:
    match block:
        case Figures():
            html = f'<div class="figures">{"".join(map(_figure, block.figures))}</div>'
        case Table():
            html = _table(block)
        case LineChart() | IntervalChart():
            html = _chart(block)
        case Charts():
            html = f'<div class="charts">{"".join(map(_chart, block.charts))}</div>'
        case Strip():
            html = _titled(block.title, block.caption, "strip", map(_strip_item, block.items))
        case PictureSheets():
            html = _titled(block.title, block.caption, "sheets", map(_sheet, block.sheets))
        case Timeline():
            html = _timeline(block)
        case Text():
            html = _text(block)
    return html


def _titled(title: str, caption: str, kind: str, items: Iterable[str]) -> str:
    return f'<h3>{escape(title)}</h3>{_caption(caption)}<div class="{kind}">{"".join(items)}</div>'


def _figure(figure: Figure) -> str:
    interval = ""
    if isinstance(figure.value, Estimate):
        value = decimal(figure.value.value, figure.decimals)
        interval = _interval(figure.value, figure.decimals)
    else:
        value = escape(figure.value) if figure.value is not None else DASH
    return (
        f'<div class="figure"><div class="label">{escape(figure.label)}</div><div class="number">{value}</div>'
        f'<div class="note">{interval}{escape(figure.note)}</div></div>'
    )


def _chart(chart: LineChart | IntervalChart) -> str:
    drawn = draw_line_chart(chart) if isinstance(chart, LineChart) else draw_interval_chart(chart)
    return f'<figure class="chart"><h3>{escape(chart.title)}</h3>{drawn}{_caption(chart.caption)}</figure>'


def _table(table: Table) -> str:
    heads = "".join(f"<th{_side(column)}>{escape(column.title)}</th>" for column in table.columns)
    best = [_best(column, [row[place] for row in table.rows]) for place, column in enumerate(table.columns)]
    rows = []
    for row in table.rows:
        cells = zip(row, table.columns, best, strict=True)
        rows.append("<tr>" + "".join(_cell(cell, column, top) for cell, column, top in cells) + "</tr>")
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'{title}<div class="table"><table>{body}</table></div>{_caption(table.caption)}'


def _cell(cell: Cell, column: Column, best: float | None) -> str:
    value = cell.value if isinstance(cell, Estimate) else cell
    match cell:
        case str():
            text = escape(cell)
        case Estimate():
            interval = _interval(cell, column.decimals)
            text = f"<span>{decimal(cell.value, column.decimals)}</span>{f' {interval}' if interval else ''}"
        case int():
            text = count(cell)
        case _:
            text = decimal(cell, column.decimals)
    kind = ' class="best"' if best is not None and value == best else ""
    return f"<td{_side(column)}{kind}>{text}</td>" if column.is_text else f"<td{kind}>{text}</td>"


def _best(column: Column, cells: list[Cell]) -> float | None:
    values = [cell.value if isinstance(cell, Estimate) else cell for cell in cells]
    numbers = [value for value in values if isinstance(value, int | float)]
    if column.best is None or len(set(numbers)) < 2:
        return None
    return max(numbers) if column.best == "highest" else min(numbers)


def _side(column: Column) -> str:
    return ' data-text=""' if column.is_text else ""


def _interval(estimate: Estimate, decimals: int) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f'<span class="interval">{decimal(estimate.low, decimals)} to {decimal(estimate.high, decimals)}</span>'


def _strip_item(item: StripItem) -> str:
    images = "".join(map(_strip_image, item.images))
    scores = "".join(map(_score, item.scores))
    facts = f'<div class="facts">{" · ".join(escape(fact) for fact in item.facts)}</div>' if item.facts else ""
    prompt = f'<div class="prompt">{escape(item.prompt)}</div>' if item.prompt else ""
    return f'<div class="item">{prompt}<div class="images">{images}</div>{scores}{facts}</div>'


def _strip_image(image: StripImage) -> str:
    address = picture_uri(image.image)
    shown = f'<img src="{address}" alt="{escape(image.label)}">' if address else '<div class="missing">unreadable</div>'
    mark = ' class="marked"' if image.is_marked else ""
    return f"<div{mark}>{shown}<span>{escape(image.label)}</span></div>"


def _score(score: Score) -> str:
    """A track from first (left) to second (right) with a dot where the score lies."""
    if score.value is None:
        return f'<div class="score"><b>{escape(score.name)}</b><i class="failed">failed</i></div>'
    verdict = {True: ("right", "✓"), False: ("wrong", "✗"), None: ("", "")}[score.is_right]
    dot = f'<i class="track"><i class="dot" style="left:{100 * score.value:.1f}%"></i></i>'
    text = f'<i class="value">{decimal(score.value, 2)}</i><i class="verdict" title="{verdict[0]}">{verdict[1]}</i>'
    return f'<div class="score {verdict[0]}"><b>{escape(score.name)}</b>{dot}{text}</div>'


def _timeline(block: Timeline) -> str:
    findings = "".join(map(_finding, block.findings))
    return (
        f'<figure class="timeline"><h3>{escape(block.title)}</h3>{draw_timeline(block)}{_caption(block.caption)}'
        f"{f'<ol>{findings}</ol>' if findings else ''}</figure>"
    )


def _finding(finding: Finding) -> str:
    action = f'<div class="action">{escape(finding.action)}</div>' if finding.action else ""
    return (
        f'<li class="{finding.state}"><div class="when">{escape(finding.label)}</div><div class="state">{finding.state}'
        f"</div><div>{escape(finding.reason)}{action}</div></li>"
    )


def _sheet(sheet: PictureSheet) -> str:
    heads = "".join(f"<th>{escape(column)}</th>" for column in ("", *sheet.columns))
    rows = "".join(map(_picture_row, sheet.rows))
    prompt = f'<div class="prompt">{escape(sheet.prompt)}</div>' if sheet.prompt else ""
    return f'<div class="item sheet">{prompt}<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _picture_row(row: PictureRow) -> str:
    cells = []
    for image in row.images:
        address = None if image is None else picture_uri(image)
        missing = '<div class="missing"></div>' if image is None else '<div class="missing">unreadable</div>'
        cells.append(f'<td><img src="{address}" alt="{escape(row.label)}"></td>' if address else f"<td>{missing}</td>")
    return f"<tr><th>{escape(row.label)}</th>{''.join(cells)}</tr>"


def _text(block: Text) -> str:
    body = f"<pre>{escape(block.text)}</pre>" if block.is_verbatim else _paragraphs(block.text, "")
    if block.fold_title is None:
        return body
    return f"<details><summary>{escape(block.fold_title)}</summary>{body}</details>"


def _paragraphs(text: str, kind: str) -> str:
    mark = f' class="{kind}"' if kind else ""
    return "".join(f"<p{mark}>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def _caption(text: str) -> str:
    return f'<p class="caption">{escape(text)}</p>' if text else ""


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
