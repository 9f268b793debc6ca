"""Small random changes of pictures before a differentiable reward sees them.

A generator that climbs a reward's gradient finds textures that please the reward model alone. They are locked to its
grid of patches and are as faint as noise; a picture that is shifted by a few pixels and a little noisy keeps what it
shows and loses them. The measured effect stands in docs/experiments.md.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from rewarddance.config.alignment import AlignConfig, AugmentationConfig
from rewarddance.core.errors import UsageError
from rewarddance.core.seeding import derive_seed
from rewarddance.generators.protocol import ImageSize


def augmented(
    pixels: Float[Tensor, "batch *frames 3 height width"],
    settings: AugmentationConfig,
    seed: int,
    optimizer_step: int,
    micro_batch: int = 0,
) -> Float[Tensor, "batch *frames 3 height width"]:
    """The same pictures, each moved by its own shift with its border repeated, and with noise; differentiable.

    The frames of a clip are moved together, and each has noise of its own.

    Args:
        pixels: RGB in [0, 1].
        settings: How much.
        seed: Of the run.
        optimizer_step: Together with the seed and the micro-batch it decides shifts and noise.
        micro_batch: Number within the optimizer step.
    """
    # Of the first one as before there was a number, so that earlier runs can be repeated.
    place = (optimizer_step, micro_batch) if micro_batch else (optimizer_step,)
    rng = torch.Generator().manual_seed(derive_seed(seed, "augmentation", *place))
    if settings.shift:
        pixels = _shifted(pixels, settings.shift, rng)
    if settings.noise:
        pixels = pixels + settings.noise * torch.randn(pixels.shape, generator=rng).to(pixels)
    return pixels


def moved(
    pixels: Float[Tensor, "batch *frames 3 height width"], down: int, right: int
) -> Float[Tensor, "batch *frames 3 height width"]:
    """The same pictures, all moved by so many pixels (negative: up, left), with their border repeated."""
    most = max(abs(down), abs(right))
    padded = functional.pad(pixels.flatten(0, -4), (most, most, most, most), mode="replicate")
    height, width = pixels.shape[-2:]
    shifted = padded[..., most - down : most - down + height, most - right : most - right + width]
    return shifted.reshape(pixels.shape)


def refuse_large_shifts(config: AlignConfig, size: ImageSize) -> None:
    """Stop at a shift that leaves nothing of a picture.

    Raises:
        UsageError: It is not smaller than the picture.
    """
    shifts = {f"judges.{place}.shift": judge.shift for place, judge in enumerate(config.judges)}
    for key, shift in {"augmentation.shift": config.augmentation.shift, **shifts}.items():
        if shift >= min(size.height, size.width):
            raise UsageError(
                f"{key} is {shift}, and pictures are {size.height} by {size.width} pixels; "
                "give a few pixels, a little under half a patch of the model"
            )


def _shifted(pixels: Tensor, most: int, rng: torch.Generator) -> Tensor:
    places = torch.randint(-most, most + 1, (len(pixels), 2), generator=rng).tolist()
    return torch.cat([moved(picture[None], *place) for picture, place in zip(pixels, places, strict=True)])
