"""What alignment and search need from a generator, whatever its family.

A generator is a velocity field over latents with an encoder for prompts before it and a decoder to pixels behind it.
Everything else (the loop over denoising steps, stochastic steps, one-step predictions, losses) is written once,
against this protocol. diffusers' pipelines cannot serve: they run without gradient and round to 8 bits.

With noise level sigma in [0, 1] (1 is noise), latents are `(1 - sigma) * x0 + sigma * noise`, and the velocity is
`noise - x0`: the direction in which sigma grows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rewarddance.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class ImageSize:
    """Size of a picture or clip.

    Attributes:
        height: In pixels.
        width: In pixels.
        frames: How many pictures of that size follow each other in a clip; None for a picture.
    """

    height: int
    width: int
    frames: int | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a batch of prompts tells the generator, ready for its network.

    Attributes:
        positive: Tensors by name, one row a prompt.
        negative: The same for the empty (or a negative) prompt, where guidance needs a second pass; else None.
        size: Of the pictures or clips to be made.
    """

    positive: Mapping[str, Tensor]
    negative: Mapping[str, Tensor] | None
    size: ImageSize

    def __len__(self) -> int:
        return len(next(iter(self.positive.values())))

    def select(self, rows: Sequence[int]) -> "Conditions":
        """The conditions of some prompts, in the order asked for; a row may occur again."""
        places = torch.tensor(rows)
        return self._each(lambda tensor: tensor[places.to(tensor.device)])

    def to(self, device: torch.device) -> "Conditions":
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: "_Change") -> "Conditions":
        negative = None if self.negative is None else {name: change(value) for name, value in self.negative.items()}
        return replace(self, positive={name: change(value) for name, value in self.positive.items()}, negative=negative)


class _Change(Protocol):
    def __call__(self, tensor: Tensor, /) -> Tensor: ...


@runtime_checkable
class Generator(Protocol):
    """A diffusion or flow model that makes pictures from prompts, or clips.

    Attributes:
        name: Its family, such as `sd3`.
        default_size: Of the pictures that it makes unless told otherwise; with frames, it makes clips.
        default_denoising_steps: From noise to picture.
        default_guidance: Strength of classifier-free or embedded guidance; what 1 means is the family's.
    """

    name: str
    default_size: ImageSize
    default_denoising_steps: int
    default_guidance: float

    @property
    def module(self) -> nn.Module:
        """The velocity network: what alignment changes. Its parameters stay where they are for the object's life."""

    @property
    def frozen_modules(self) -> Mapping[str, nn.Module]:
        """Everything else with parameters, such as text encoders and the image decoder."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""

    def encode(self, prompts: Sequence[str], size: ImageSize | None = None) -> Conditions:
        """Read prompts; without gradient.

        Args:
            prompts: At least one.
            size: Of the pictures to be made; None for the generator's own.

        Raises:
            UsageError: A prompt or a size that the generator cannot take.
        """

    def initial_noise(self, seeds: Sequence[int], size: ImageSize | None = None) -> Float[Tensor, " batch *latent"]:
        """Latents at sigma 1, in float32: one picture a seed, the same whatever else is in the batch."""

    def sigmas(self, denoising_steps: int, size: ImageSize | None = None) -> Float[Tensor, " steps_and_end"]:
        """Noise levels as the family's pipeline uses them, shift included: falling, one more than steps, 0 last."""

    def velocity(
        self,
        latents: Float[Tensor, " batch *latent"],
        sigma: Float[Tensor, " batch"],
        conditions: Conditions,
        guidance: float | None = None,
    ) -> Float[Tensor, " batch *latent"]:
        """Direction of growing noise at each latent; differentiable, in float32 whatever the network computes in.

        Args:
            latents: One row a condition.
            sigma: Noise level of each row.
            conditions: What to show.
            guidance: None for the generator's own.
        """

    def decode(
        self, latents: Float[Tensor, " batch *latent"], size: ImageSize | None = None
    ) -> Float[Tensor, "batch *frames 3 height width"]:
        """Pictures, float RGB in [0, 1]; differentiable. Values outside are clamped, as they are when shown.

        Clips have an axis of frames after the batch.
        """

    def gradient_checkpointing(self, is_on: bool) -> None:
        """Compute activations of network and decoder again in the backward pass, where the family can."""

    def save(self, folder: Path) -> None:
        """Write the generator as its pipeline's folder, so that diffusers can load it too where it knows the family."""


def refuse_clips(generator: Generator, work: str) -> None:
    """Stop at a generator of clips where only pictures can be handled.

    Args:
        generator: Any.
        work: What would be done with its pictures, in words.

    Raises:
        UsageError: It makes clips.
    """
    if generator.default_size.frames is not None:
        raise UsageError(f"{generator.name} makes clips, and {work} knows pictures only; take a generator of pictures")
