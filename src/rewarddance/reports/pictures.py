"""Images inside a page: small ones enlarged pixel by pixel, large ones reduced."""

import base64
from io import BytesIO

from PIL import Image

from rewarddance.core.errors import MediaError
from rewarddance.core.media import MediaSource, load_frames

_SMALLEST_SIDE = 160
_LARGEST_SIDE = 288


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


def _fitted(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    factor = -(-_SMALLEST_SIDE // longest)  # rounded up
    if factor > 1:
        # Whole steps without smoothing: people should see the very pixels that were judged.
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if longest <= _LARGEST_SIDE:
        return image
    size = (max(1, round(side * _LARGEST_SIDE / longest)) for side in image.size)
    width, height = size
    return image.resize((width, height), Image.Resampling.LANCZOS)
