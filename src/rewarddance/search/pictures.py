"""Pictures as they are judged and stored: 8 bits a channel."""

from io import BytesIO

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def picture_of(pixels: Float[Tensor, "3 height width"]) -> Image.Image:
    """The picture that a file would hold; pixels are RGB in [0, 1] and finite."""
    rounded = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(rounded.permute(1, 2, 0).cpu().numpy())


def png_of(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def is_whole(pixels: Float[Tensor, "3 height width"]) -> bool:
    """Whether every pixel is finite: a network that overflowed has made no picture."""
    return bool(torch.isfinite(pixels).all())
