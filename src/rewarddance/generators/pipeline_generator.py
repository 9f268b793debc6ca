"""A generator made of the components of a diffusers pipeline.

Pipelines run without gradient, keep their step in a scheduler, and round pictures to 8 bits. Here the same
components answer one question at a time, with gradient, and hold no state between questions.

Differs:
    Latents stay in float32 between denoising steps whatever the network computes in; the pipelines round them to the
    network's precision. Initial noise is always drawn in float32 on the CPU.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rewarddance.core.errors import UsageError
from rewarddance.core.files import write_text_atomic
from rewarddance.generators.adapters import as_trained
from rewarddance.generators.decoding import pictures_decoded_at_once
from rewarddance.generators.merged_weights import merged, network_dtype
from rewarddance.generators.protocol import Conditions, ImageSize

_RECORD_NAME = "merged_adapter.json"
_CLIP_AXES = 5
_FROZEN = ("text_encoder", "text_encoder_2", "text_encoder_3", "vae")


@runtime_checkable
class Family(Protocol):
    """What differs from one family of pipelines to another.

    Attributes:
        side_multiple: Height and width are multiples of this.
        largest_side: In pixels; None without a limit.
        frame_multiple: A clip has a multiple of so many frames, and one more; None for a family of pictures.
        negative_prompt: What guidance pushes away from; None for a network that is given guidance as a number.
    """

    @property
    def pipeline(self) -> Any: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def default_denoising_steps(self) -> int: ...  # noqa: D102
    @property
    def default_guidance(self) -> float: ...  # noqa: D102
    @property
    def default_size(self) -> ImageSize: ...  # noqa: D102
    @property
    def side_multiple(self) -> int: ...  # noqa: D102
    @property
    def largest_side(self) -> int | None: ...  # noqa: D102
    @property
    def frame_multiple(self) -> int | None: ...  # noqa: D102
    @property
    def negative_prompt(self) -> str | None: ...  # noqa: D102

    def read(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What the text encoders make of prompts, one row each."""

    def noise(self, rng: torch.Generator, size: ImageSize) -> Tensor:
        """Latents of one picture or clip at sigma 1, in the order in which the pipeline draws them."""

    def sigmas(self, denoising_steps: int, size: ImageSize) -> Tensor:
        """The pipeline's noise levels."""

    def velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        positive: Mapping[str, Tensor],
        negative: Mapping[str, Tensor] | None,
        guidance: float,
        size: ImageSize,
    ) -> Tensor:
        """The network's answer, guided away from `negative` where it is given; latents have the network's dtype."""

    def decoder_input(self, latents: Tensor, size: ImageSize) -> Tensor:
        """Latents in the layout and units of the image decoder."""

    def decoded(self, images: Tensor) -> Tensor:
        """Pictures from what the decoder gives; frames of clips stand before channels."""

    def encoder_input(self, images: Tensor) -> Tensor:
        """Pictures as the image encoder takes them."""

    def encoded(self, codes: Tensor, size: ImageSize) -> Tensor:
        """Latents from what the image encoder gives; the inverse of `decoder_input`."""


class PipelineGenerator:
    """A `Generator` over one family's pipeline.

    Args:
        family: Holds the pipeline, whose weights are frozen here; whoever tunes the network frees what is tuned.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self._pipeline = family.pipeline
        self._blank: dict[str, Tensor] | None = None
        self._checkpoints_decoder = False
        self.name = family.name
        self.default_size = family.default_size
        self.default_denoising_steps = family.default_denoising_steps
        self.default_guidance = family.default_guidance
        for module in (self.module, *self.frozen_modules.values()):
            module.requires_grad_(False).eval()

    @property
    def module(self) -> nn.Module:
        """The transformer, with any adapters that were put into it."""
        network: nn.Module = self._pipeline.transformer
        return network

    @property
    def frozen_modules(self) -> Mapping[str, nn.Module]:
        """Text encoders and image decoder, by the pipeline's names."""
        found = ((name, getattr(self._pipeline, name, None)) for name in _FROZEN)
        return {name: module for name, module in found if module is not None}

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.module.parameters()).device

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], size: ImageSize | None = None) -> Conditions:
        """See `Generator.encode`; what the text encoders cannot hold of a prompt is cut off, with a logged warning."""
        if not prompts:
            raise UsageError("there is no prompt to encode")
        size = self._checked(size)
        with as_trained(self.module):
            positive = self._family.read(prompts)
            return Conditions(positive, self._blanks(len(prompts)), size)

    def initial_noise(self, seeds: Sequence[int], size: ImageSize | None = None) -> Float[Tensor, " batch *latent"]:
        """See `Generator.initial_noise`; the pipeline draws the same from a CPU generator with that seed."""
        size = self._checked(size)
        drawn = [self._family.noise(torch.Generator().manual_seed(seed), size) for seed in seeds]
        return torch.cat(drawn).to(self.device)

    def sigmas(self, denoising_steps: int, size: ImageSize | None = None) -> Float[Tensor, " steps_and_end"]:
        """See `Generator.sigmas`; on the CPU, where the loop over steps reads them."""
        return self._family.sigmas(denoising_steps, self._checked(size))

    def velocity(
        self,
        latents: Float[Tensor, " batch *latent"],
        sigma: Float[Tensor, " batch"],
        conditions: Conditions,
        guidance: float | None = None,
    ) -> Float[Tensor, " batch *latent"]:
        """See `Generator.velocity`; classifier-free guidance of 1 or less leaves the second pass out.

        Raises:
            UsageError: Guidance needs a second pass and the conditions have nothing for it.
        """
        guidance = self.default_guidance if guidance is None else guidance
        dtype = network_dtype(self.module)
        is_two_passes = self._family.negative_prompt is not None and guidance > 1.0
        if is_two_passes and conditions.negative is None:
            raise UsageError(f"guidance {guidance} needs conditions of a blank prompt; encode the prompts again")
        with as_trained(self.module):
            predicted = self._family.velocity(
                latents.to(self.device, dtype),
                sigma.to(self.device, torch.float32),
                _cast(conditions.positive, dtype),
                _cast(conditions.negative, dtype) if is_two_passes and conditions.negative is not None else None,
                guidance,
                conditions.size,
            )
        return predicted.float()

    def decode(
        self, latents: Float[Tensor, " batch *latent"], size: ImageSize | None = None
    ) -> Float[Tensor, "batch *frames 3 height width"]:
        """See `Generator.decode`."""
        with as_trained(self.module):
            return self._decoded(latents, self._checked(size))

    def _decoded(self, latents: Tensor, checked: ImageSize) -> Tensor:
        scaled = self._family.decoder_input(latents.float(), checked)
        scaled = scaled.to(self._pipeline.vae.dtype)
        if self._checkpoints_decoder and torch.is_grad_enabled():
            images: Tensor = checkpoint(self._decoder, scaled, use_reentrant=False)
        elif torch.is_grad_enabled():
            images = self._decoder(scaled)
        else:
            at_once = pictures_decoded_at_once(checked.height, checked.width, checked.frames)
            images = torch.cat([self._decoder(some) for some in torch.split(scaled, at_once)])
        return (self._family.decoded(images).float() / 2 + 0.5).clamp(0.0, 1.0)

    @torch.no_grad()
    def latents_of(self, pixels: Float[Tensor, "batch *frames 3 height width"]) -> Float[Tensor, " batch *latent"]:
        """Clean latents of pictures or clips in [0, 1], at the mode of the encoder's distribution; without gradient."""
        frames = pixels.shape[1] if pixels.ndim == _CLIP_AXES else None
        size = self._checked(ImageSize(pixels.shape[-2], pixels.shape[-1], frames))
        vae = self._pipeline.vae
        images = self._family.encoder_input(pixels.to(self.device, vae.dtype) * 2 - 1)
        codes: Tensor = vae.encode(images, return_dict=False)[0].mode()
        return self._family.encoded(codes.float(), size)

    def gradient_checkpointing(self, is_on: bool) -> None:
        """See `Generator.gradient_checkpointing`; a decoder without support of its own is one checkpoint as a whole."""
        network, vae = self._pipeline.transformer, self._pipeline.vae
        modules = [network, vae] if vae._supports_gradient_checkpointing else [network]
        for module in modules:
            (module.enable_gradient_checkpointing if is_on else module.disable_gradient_checkpointing)()
        self._checkpoints_decoder = is_on and vae not in modules

    def save(self, folder: Path) -> None:
        """See `Generator.save`; LoRA adapters that are switched on are added to the weights of the copy.

        `merged_adapter.json` then says which share of their update the weights' precision took (`rounding`).
        """
        tuned = merged(self._pipeline.transformer, torch.device("cpu"))
        parts = {**self._pipeline.components, "transformer": tuned.network}
        type(self._pipeline)(**parts).save_pretrained(folder, safe_serialization=True)
        if tuned.rounding is not None:
            record = {"rounding": tuned.rounding, "precision": str(network_dtype(tuned.network)).removeprefix("torch.")}
            write_text_atomic(folder / _RECORD_NAME, json.dumps(record, indent=2) + "\n")

    def _decoder(self, scaled: Tensor) -> Tensor:
        images: Tensor = self._pipeline.vae.decode(scaled, return_dict=False)[0]
        return images

    def _blanks(self, count: int) -> dict[str, Tensor] | None:
        """Conditions of the negative prompt, read once; a view with one row a prompt."""
        if self._family.negative_prompt is None:
            return None
        if self._blank is None:
            self._blank = self._family.read([self._family.negative_prompt])
        rows = {name: value.to(self.device) for name, value in self._blank.items()}
        return {name: value.expand(count, *value.shape[1:]) for name, value in rows.items()}

    def _checked(self, size: ImageSize | None) -> ImageSize:
        """The size to use.

        Raises:
            UsageError: The family makes no such pictures or clips.
        """
        size = size or self.default_size
        multiple, largest = self._family.side_multiple, self._family.largest_side
        for side in (size.height, size.width):
            if side <= 0 or side % multiple:
                raise UsageError(
                    f"{self.name} cannot make {size.height} by {size.width} pixels; use multiples of {multiple}"
                )
            if largest is not None and side > largest:
                raise UsageError(f"{self.name} cannot make a side of {side} pixels; the largest is {largest}")
        self._check_frames(size.frames)
        return size

    def _check_frames(self, frames: int | None) -> None:
        multiple = self._family.frame_multiple
        if multiple is None:
            if frames is not None:
                raise UsageError(f"{self.name} makes pictures, not clips of {frames} frames; leave the frames out")
        elif frames is None or frames < 1 or (frames - 1) % multiple:
            asked = "clips, and the size has no frames" if frames is None else f"no clip of {frames} frames"
            raise UsageError(
                f"{self.name} makes {asked}; give one more than a multiple of {multiple}, "
                f"such as {self.default_size.frames}"
            )


def _cast(values: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Text states in the network's precision; masks as they are."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in values.items()}
