"""Contact sheets: a strip of each prompt's candidates, best first, the winner framed; and all strips in one picture."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from rewarddance.search.pictures import is_whole, picture_of
from rewarddance.search.results import Opinion, SearchResult

MOST_CANDIDATES = 12
MOST_STRIPS = 50

_SIDE = 112  # pixels of a thumbnail
_FEWEST = 5  # thumbnails whose width a prompt's text gets at least
_GAP = 8
_LINE = 14  # height of a line of text
_INK, _PAPER, _FRAME, _FAINT = (20, 20, 20), (255, 255, 255), (214, 90, 20), (150, 150, 150)


def strip_of(result: SearchResult) -> Image.Image:
    """One prompt: its text, and up to `MOST_CANDIDATES` candidates with the verifier's reward below each."""
    failed = [index for index in range(len(result.candidates)) if index not in result.order]
    shown = [*result.order, *failed][:MOST_CANDIDATES]
    width = _GAP + max(_FEWEST, len(shown)) * (_SIDE + _GAP)
    strip = Image.new("RGB", (width, _LINE + _SIDE + _LINE + 3 * _GAP), _PAPER)
    pen = ImageDraw.Draw(strip)
    pen.text((_GAP, 2), _line(result.prompt if result.problem is None else f"{result.prompt}: {result.problem}"), _INK)
    for place, index in enumerate(shown):
        left, top = _GAP + place * (_SIDE + _GAP), _LINE + _GAP
        candidate = result.candidates[index]
        if is_whole(candidate.pixels):
            strip.paste(_thumbnail(picture_of(candidate.pixels)), (left, top))
        if result.order and index == result.order[0]:
            pen.rectangle((left - 3, top - 3, left + _SIDE + 2, top + _SIDE + 2), outline=_FRAME, width=3)
        pen.text((left, top + _SIDE + 4), _label(candidate.opinion), _INK if index in result.order else _FAINT)
    return strip


def stacked(strips: Sequence[Path]) -> Image.Image:
    """The first `MOST_STRIPS` strips below each other.

    Args:
        strips: Files of `strip_of`, at least one.
    """
    images = [Image.open(path).convert("RGB") for path in strips[:MOST_STRIPS]]
    sheet = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), _PAPER)
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    return sheet


def _label(opinion: Opinion) -> str:
    if opinion.reward is None:
        return opinion.status
    return f"{opinion.reward:+.2f}" if opinion.wins is None else f"{opinion.reward:+.2f}, {opinion.wins:g} won"


def _thumbnail(picture: Image.Image) -> Image.Image:
    """Fitted into a square; small pictures are enlarged without smoothing, so that their own pixels are seen."""
    factor = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    filtering = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    square = Image.new("RGB", (_SIDE, _SIDE), _PAPER)
    square.paste(picture.resize(size, filtering), ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    return square


def _line(text: str) -> str:
    """One line that the built-in font can write."""
    return " ".join(text.split()).encode("ascii", "replace").decode()[:220]
