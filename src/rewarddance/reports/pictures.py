"""Images inside a page: small ones enlarged pixel by pixel, large ones reduced."""

import base64
from io import BytesIO

from PIL import Image

from rewarddance.core.errors import MediaError
from rewarddance.core.media import MediaSource, inspect_media, load_frames

_SMALLEST_SIDE = 160
_LARGEST_SIDE = 288
_WIDE = 3
"""So many times as wide as high: frames of a clip in a row, which are shown in as many times the width."""


def picture_uri(source: MediaSource) -> str | None:
    """The image (of a clip, the first frame) as a PNG data address.

    Args:
        source: What to show.

    Returns:
        None when it cannot be decoded.
    """
    try:
        image = load_frames(source, 1)[0]
    except MediaError:
        return None
    buffer = BytesIO()
    _fitted(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def is_wide(source: MediaSource) -> bool:
    """Whether an image needs more width than others; one that cannot be read needs none."""
    try:
        facts = inspect_media(source)
    except MediaError:
        return False
    return facts.width >= _WIDE * facts.height


def _fitted(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    factor = -(-_SMALLEST_SIDE // longest)  # rounded up
    if factor > 1:
        # Whole steps without smoothing: people should see the very pixels that were judged.
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    largest = _LARGEST_SIDE * (_WIDE if image.width >= _WIDE * image.height else 1)
    if longest <= largest:
        return image
    size = (max(1, round(side * largest / longest)) for side in image.size)
    width, height = size
    return image.resize((width, height), Image.Resampling.LANCZOS)
