"""Differentiable resizing that follows Pillow's, so that both routes from an image to the vision tower agree.

A resize is two matrix products, one for each axis. The matrices hold Pillow's own filter weights: the filter is
widened by the scale when shrinking (antialiasing), cut at the border and normalised.

Differs: Pillow rounds to 8 bits after each pass; here values are only clipped, as rounding has no gradient.
The mean difference is below 1/255.

Source: Pillow, `src/libImaging/Resample.c`, `precompute_coeffs`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from PIL.Image import Resampling
from torch import Tensor

Kernel = Literal["lanczos", "bilinear", "bicubic"]

PIL_FILTERS: dict[Kernel, Resampling] = {
    "lanczos": Resampling.LANCZOS,
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
}


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _bicubic(x: Tensor) -> Tensor:
    slope = -0.5  # Pillow's; torch's interpolate without antialiasing has -0.75
    x = x.abs()
    near = ((slope + 2) * x - (slope + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * slope
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where((x >= -3) & (x < 3), torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))


_FILTERS: dict[Kernel, tuple[Callable[[Tensor], Tensor], float]] = {
    "lanczos": (_lanczos, 3.0),
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}


@lru_cache(maxsize=32)
def resampling_matrix(source: int, target: int, kernel: Kernel) -> Float[Tensor, "target source"]:
    """Weights of every source pixel in every target pixel along one axis; each row sums to 1."""
    # The cache outlives the caller: a matrix made in inference mode could never take part in a backward pass.
    with torch.inference_mode(False):
        return _filter_weights(source, target, kernel)


def _filter_weights(source: int, target: int, kernel: Kernel) -> Float[Tensor, "target source"]:
    filter_function, support = _FILTERS[kernel]
    scale = source / target
    stretch = max(scale, 1.0)
    centre = (torch.arange(target, dtype=torch.float64)[:, None] + 0.5) * scale
    first = (centre - support * stretch + 0.5).floor().clamp(min=0)
    last = (centre + support * stretch + 0.5).floor().clamp(max=source)
    position = torch.arange(source, dtype=torch.float64)[None, :]
    weights = filter_function((position - centre + 0.5) / stretch)
    weights = torch.where((position >= first) & (position < last), weights, torch.zeros_like(weights))
    return weights / weights.sum(-1, keepdim=True)


def resize(
    pixels: Float[Tensor, "*channels height width"], height: int, width: int, kernel: Kernel = "bicubic"
) -> Float[Tensor, "*channels height2 width2"]:
    """Resize an image as Pillow does, with gradient.

    Args:
        pixels: RGB in [0, 1].
        height: Target height in pixels.
        width: Target width in pixels.
        kernel: The filter; Pillow's name for it.

    Returns:
        RGB in [0, 1]: overshoot at sharp edges is clipped after each pass, as in Pillow.
    """
    if pixels.shape[-1] != width:
        across = resampling_matrix(pixels.shape[-1], width, kernel).to(pixels)
        pixels = (pixels @ across.T).clamp(0, 1)
    if pixels.shape[-2] != height:
        down = resampling_matrix(pixels.shape[-2], height, kernel).to(pixels)
        pixels = (down @ pixels).clamp(0, 1)
    return pixels
