"""A clip as one picture: a few of its frames in a row, for people to look at."""

from collections.abc import Sequence

from PIL import Image

FRAMES_SHOWN = 4
"""Frames of a clip that stand for it where people, or plain statistics, look at it."""

_GAP = 2
_PAPER = (255, 255, 255)


def filmstrip(frames: Sequence[Image.Image]) -> Image.Image:
    """Frames of one size beside each other, in the order of time, two white pixels between them.

    Args:
        frames: At least one.
    """
    width, height = frames[0].size
    strip = Image.new("RGB", (len(frames) * (width + _GAP) - _GAP, height), _PAPER)
    for place, frame in enumerate(frames):
        strip.paste(frame, (place * (width + _GAP), 0))
    return strip
