"""Whether numbers can be a picture in [0, 1]: in another range they would be judged as another picture, unnoticed."""

import math

DARKEST, BRIGHTEST = -0.5, 8.0
"""A decoder may overshoot a little, and noise may be added; floats in [-1, 1] lie lower, floats up to 255 higher."""

_LARGEST_SHARE = 0.05


def range_flaw(share_below: float, highest: float) -> str | None:
    """What is wrong with the range of a batch of pixels and what to do, in one line; None for [0, 1].

    Args:
        share_below: Share of the values, of all pictures, that are lower than `DARKEST`.
        highest: Largest value; one that is not finite is not judged here.
    """
    if BRIGHTEST < highest < math.inf:
        return f"floats up to {highest:g} are no image in [0, 1]; give bytes where they are taken, or divide by 255"
    if share_below > _LARGEST_SHARE:
        return (
            f"floats of which {share_below:.0%} lie below {DARKEST} are no image in [0, 1]; "
            "take (pixels + 1) / 2 of [-1, 1], or clamp them"
        )
    return None
