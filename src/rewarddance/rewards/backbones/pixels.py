"""From an image to normalised channels: resize, rescale, subtract the mean, divide by the standard deviation.

The PIL route repeats the arithmetic of the transformers PIL processors, precision by precision, and is bit-equal to
them. The tensor route computes the same in the precision of its input, with gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from rewarddance.core.errors import ModelError
from rewarddance.rewards.backbones.resize import PIL_FILTERS, Kernel, resize

_KERNELS_BY_CODE: dict[int, Kernel] = {int(code): name for name, code in PIL_FILTERS.items()}


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """How a family resizes and normalises.

    Attributes:
        mean: Subtracted from each channel, in [0, 1].
        std: Divides each channel.
        kernel: Filter of every resize.
        rescale_factor: Takes 8-bit values to [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    kernel: Kernel
    rescale_factor: float = 1 / 255

    @classmethod
    def from_preprocessor(cls, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> "PixelSettings":
        """Read a family's preprocessor settings, with the family's defaults for what is absent.

        Raises:
            ModelError: A step is switched off, or the resize filter is not one of Pillow's usual three.
        """
        values = {**defaults, **{name: value for name, value in settings.items() if value is not None}}
        switched_off = [name for name in ("do_resize", "do_rescale", "do_normalize") if values.get(name) is False]
        if switched_off:
            raise ModelError(f"the image processor config switches off {', '.join(switched_off)}; set it to true")
        code = int(values["resample"])
        if code not in _KERNELS_BY_CODE:
            known = ", ".join(f"{number} ({name})" for number, name in sorted(_KERNELS_BY_CODE.items()))
            raise ModelError(f"the image processor config has resample={code}; known are {known}")
        return cls(
            mean=tuple(values["image_mean"]),
            std=tuple(values["image_std"]),
            kernel=_KERNELS_BY_CODE[code],
            rescale_factor=float(values.get("rescale_factor", 1 / 255)),
        )


def resize_image(image: Image, height: int, width: int, settings: PixelSettings) -> Image:
    """Pillow's resize with the family's filter."""
    return image.resize((width, height), resample=PIL_FILTERS[settings.kernel])


def normalise_image(image: Image, settings: PixelSettings) -> Float[Tensor, "3 height width"]:
    """Bit-equal to `rescale` and `normalize` of the transformers PIL processors.

    They multiply in float64, round to float32, and subtract and divide in float32.
    """
    channels = np.asarray(image).transpose(2, 0, 1)
    rescaled = (channels.astype(np.float64) * settings.rescale_factor).astype(np.float32)
    mean = np.array(settings.mean, dtype=np.float32)[:, None, None]
    std = np.array(settings.std, dtype=np.float32)[:, None, None]
    return torch.from_numpy(np.ascontiguousarray((rescaled - mean) / std))


def normalise_pixels(
    pixels: Float[Tensor, "*pictures 3 height width"], settings: PixelSettings
) -> Float[Tensor, "*pictures 3 height width"]:
    """The same for float RGB in [0, 1], in its own precision and with gradient."""
    mean = pixels.new_tensor(settings.mean)[:, None, None]
    std = pixels.new_tensor(settings.std)[:, None, None]
    return (pixels * (255 * settings.rescale_factor) - mean) / std


def resize_pixels(
    pixels: Float[Tensor, "*pictures 3 height width"], height: int, width: int, settings: PixelSettings
) -> Float[Tensor, "*pictures 3 height2 width2"]:
    """The family's resize on float RGB in [0, 1], with gradient."""
    return resize(pixels, height, width, settings.kernel)
