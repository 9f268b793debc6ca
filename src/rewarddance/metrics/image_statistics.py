"""Plain statistics of pictures that reward hacking is known to move: texture, colour and contrast.

Hacked generators show grids and meshes (high frequencies), oversaturated colours, harsh contrast and pixels at the
ends of their range. No model is asked, so no reward can be fooled about them.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray

_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_HIGH = 0.25  # cycles a pixel: half of the highest frequency that a picture can hold
_AT_THE_END = 1 / 255  # a value this close to 0 or 1 is clipped


def image_statistics(
    pixels: Float[ndarray, "pictures 3 height width"],
) -> Mapping[str, Float[ndarray, " pictures"]]:
    """Every statistic by its name, one number a picture.

    Args:
        pixels: RGB in [0, 1].

    Returns:
        `brightness`, `contrast`, `colour_saturation`, `high_frequency` and `clipped`; see the functions of this file.
    """
    grey = np.einsum("c,nchw->nhw", _LUMINANCE, pixels)
    return {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "colour_saturation": colour_saturation(pixels),
        "high_frequency": high_frequency_amplitude(grey),
        "clipped": clipped_share(pixels),
    }


def colour_saturation(pixels: Float[ndarray, "pictures 3 height width"]) -> Float[ndarray, " pictures"]:
    """Mean distance between the strongest and the weakest channel, in [0, 1]; 0 for grey pictures."""
    return np.asarray((pixels.max(axis=1) - pixels.min(axis=1)).mean(axis=(1, 2)))


def high_frequency_amplitude(grey: Float[ndarray, "pictures height width"]) -> Float[ndarray, " pictures"]:
    """Root mean square of what a picture holds above half of its highest frequency.

    In units of brightness, not a share of all energy: a share would fall when the rest of a picture gains contrast.

    Args:
        grey: Brightness in [0, 1].

    Returns:
        0 for flat pictures; one half for a chequerboard of black and white pixels.

    Source:
        Parseval: the sum of squared Fourier coefficients is the sum of squares times the number of pixels.
    """
    height, width = grey.shape[1:]
    rows, columns = np.fft.fftfreq(height), np.fft.fftfreq(width)
    is_high = np.maximum(np.abs(rows)[:, None], np.abs(columns)[None]) > _HIGH
    power = np.abs(np.fft.fft2(grey)) ** 2 * is_high
    return np.asarray(np.sqrt(power.sum(axis=(1, 2))) / (height * width))


def clipped_share(pixels: Float[ndarray, "pictures 3 height width"]) -> Float[ndarray, " pictures"]:
    """Share of values at the ends of their range, in [0, 1]: white, black, colours at full strength."""
    is_clipped = (pixels <= _AT_THE_END) | (pixels >= 1 - _AT_THE_END)
    return np.asarray(is_clipped.mean(axis=(1, 2, 3)))
