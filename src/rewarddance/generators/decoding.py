"""How many pictures or clips a decoder makes at once where no gradient is asked for.

A decoder holds a picture's maps at full size, and evaluations decode many pictures: at a megapixel they go one by one,
which a GPU does as fast.
"""

_PIXELS_AT_ONCE = 2**20


def pictures_decoded_at_once(height: int, width: int, frames: int | None = None) -> int:
    """Pictures of a size, in pixels, or clips of so many frames, that are decoded together; 1 at least."""
    return max(1, _PIXELS_AT_ONCE // (height * width * (frames or 1)))
