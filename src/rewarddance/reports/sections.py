"""What a page is made of. Plain values; `html_page` draws them and escapes every text."""

from dataclasses import dataclass
from typing import Literal

from rewarddance.core.media import MediaSource


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, with the interval it lies in where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One key figure.

    Attributes:
        label: What it is, in a few words.
        value: A number with interval, or a text that is shown as it is; None when it is not known.
        note: A line below: on what, how many, compared with what.
        decimals: Digits after the point.
    """

    label: str
    value: Estimate | str | None
    note: str = ""
    decimals: int = 3


@dataclass(frozen=True, slots=True)
class Figures:
    """Key figures side by side."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: With the unit, if there is one.
        is_text: Text stands to the left, numbers to the right with their points aligned.
        decimals: Digits after the point.
        best: Which number of the column is set in bold.
    """

    title: str
    is_text: bool = False
    decimals: int = 3
    best: Literal["highest", "lowest"] | None = None


Cell = Estimate | float | int | str | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; None is shown as a dash."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a line, with the interval of its height where one is known."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """A named line.

    Attributes:
        name: Written at the line's end.
        points: In order of x.
        is_noisy: Drawn faintly, with a moving average on top.
        has_markers: With a dot at each point.
    """

    name: str
    points: tuple[Point, ...]
    is_noisy: bool = False
    has_markers: bool = False


@dataclass(frozen=True, slots=True)
class Guide:
    """A dashed line to compare with, such as chance; horizontal in a line chart, vertical in an interval chart."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class LineChart:
    """Lines over a common axis.

    Attributes:
        title: What is shown.
        x_label: With unit.
        y_label: With unit.
        series: One or several lines.
        x_range: Ends of the axis; None takes the data's.
        y_range: Likewise.
        guide: A horizontal line to compare with.
        diagonal_label: Draws the line y = x under this name, as in a reliability diagram.
        caption: How to read it.
        events: Vertical lines at values of x where something happened.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    guide: Guide | None = None
    diagonal_label: str | None = None
    caption: str = ""
    events: tuple[Guide, ...] = ()


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """A line of an interval chart: one estimate for each name, None where there is none."""

    label: str
    estimates: tuple[Estimate | None, ...]


@dataclass(frozen=True, slots=True)
class IntervalChart:
    """Estimates with their intervals, one row a group, one mark a name."""

    title: str
    x_label: str
    names: tuple[str, ...]
    rows: tuple[IntervalRow, ...]
    x_range: tuple[float, float] | None = None
    guide: Guide | None = None
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts side by side where there is room."""

    charts: tuple[LineChart | IntervalChart, ...]


@dataclass(frozen=True, slots=True)
class StripImage:
    """An image of a strip.

    Attributes:
        image: A file, its bytes or a decoded image; the first frame of a clip.
        label: Stands below it.
        is_marked: Framed: the one that was preferred.
    """

    image: MediaSource
    label: str = ""
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """P(second better) of a model, in [0, 1]; None when it failed.

    Attributes:
        name: Of the model.
        value: The score.
        is_right: Whether it agrees with people; None when that cannot be said.
    """

    name: str
    value: float | None
    is_right: bool | None = None


@dataclass(frozen=True, slots=True)
class StripItem:
    """Images of one prompt, and what was said about them."""

    prompt: str
    images: tuple[StripImage, ...]
    scores: tuple[Score, ...] = ()
    facts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Strip:
    """Judged images in a row."""

    title: str
    items: tuple[StripItem, ...]
    caption: str = ""


State = Literal["healthy", "warning", "hacking", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found at one moment.

    Attributes:
        x: The moment.
        state: Decides the colour.
        action: What was done about it, in a word or two; empty for nothing.
    """

    x: float
    state: State
    action: str = ""


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """Verdicts on one run, in order of x."""

    label: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A stretch of the same state, in words.

    Attributes:
        label: When, and of which run where there are several.
        state: Decides the colour.
        reason: Why, in a sentence.
        action: What was done about it; empty for nothing.
    """

    label: str
    state: State
    reason: str
    action: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """States over time as a coloured band, and the reasons in words below it."""

    title: str
    x_label: str
    rows: tuple[TimelineRow, ...]
    findings: tuple[Finding, ...] = ()
    caption: str = ""


@dataclass(frozen=True, slots=True)
class PictureRow:
    """Pictures of one moment, one a column; None where there is none."""

    label: str
    images: tuple[MediaSource | None, ...]


@dataclass(frozen=True, slots=True)
class PictureSheet:
    """Pictures of one prompt: a row for each moment, a column for each noise."""

    prompt: str
    columns: tuple[str, ...]
    rows: tuple[PictureRow, ...]


@dataclass(frozen=True, slots=True)
class PictureSheets:
    """Sheets side by side where there is room."""

    title: str
    sheets: tuple[PictureSheet, ...]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs, or a block shown letter by letter (a config, a command).

    Attributes:
        text: Paragraphs are separated by an empty line.
        is_verbatim: Keep spaces and line ends.
        fold_title: Fold it away under this title; None shows it.
    """

    text: str
    is_verbatim: bool = False
    fold_title: str | None = None


Block = Figures | Table | LineChart | IntervalChart | Charts | Strip | Timeline | PictureSheets | Text


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of a page."""

    title: str
    blocks: tuple[Block, ...]
    intro: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page.

    Attributes:
        title: The largest line.
        subtitle: One sentence below it.
        facts: Name and value, such as command, date, seed, versions.
        sections: In order.
    """

    title: str
    sections: tuple[Section, ...]
    subtitle: str = ""
    facts: tuple[tuple[str, str], ...] = ()
