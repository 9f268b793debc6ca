"""FLUX.1, with guidance distilled into the network (dev) or without (schnell and undistilled relatives).

Latents are packed patches with positions; noise levels are shifted by the number of patches; the network is told
the noise level itself. A distilled network is given the guidance as a number; any other gets classifier-free
guidance by a second pass, which is off by default, as in the pipeline.

Source:
    diffusers' FluxPipeline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewarddance.generators.guidance import guided
from rewarddance.generators.packing import pack, patch_positions, unpack
from rewarddance.generators.protocol import ImageSize
from rewarddance.generators.schedule import dynamic_shift, scheduler_sigmas

_DEFAULT_MAX_SHIFT = 1.15
_TIMESTEPS = 1000


@dataclass(frozen=True, slots=True)
class Flux:
    """The family's half of a generator; see `Family`."""

    pipeline: Any
    name: str = "flux"
    default_denoising_steps: int = 28
    largest_side: int | None = None
    frame_multiple: int | None = None

    @property
    def is_distilled(self) -> bool:
        """Whether the network takes guidance as an input."""
        return bool(self.pipeline.transformer.config.guidance_embeds)

    @property
    def negative_prompt(self) -> str | None:
        """A distilled network needs no second pass."""
        return None if self.is_distilled else ""

    @property
    def default_guidance(self) -> float:
        """Embedded, or none."""
        return 3.5 if self.is_distilled else 1.0

    @property
    def default_size(self) -> ImageSize:
        """The pipeline's."""
        side = self.pipeline.default_sample_size * self.pipeline.vae_scale_factor
        return ImageSize(side, side)

    @property
    def side_multiple(self) -> int:
        """A side is a whole number of patches."""
        return int(self.pipeline.vae_scale_factor * 2)

    def read(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Token states of T5 and the pooled state of CLIP."""
        tokens, pooled, _ = self.pipeline.encode_prompt(list(prompts), device=self.pipeline.transformer.device)
        return {"tokens": tokens, "pooled": pooled}

    def noise(self, rng: torch.Generator, size: ImageSize) -> Tensor:
        """Latents of one picture, drawn as a picture and then packed."""
        factor = self.pipeline.vae_scale_factor
        channels = self.pipeline.transformer.config.in_channels // 4
        return pack(torch.randn(1, channels, size.height // factor, size.width // factor, generator=rng))

    def sigmas(self, denoising_steps: int, size: ImageSize) -> Tensor:
        """Evenly spaced levels, shifted by the number of patches."""
        config = self.pipeline.scheduler.config
        rows, columns = self._patches(size)
        mu = dynamic_shift(config, rows * columns, _DEFAULT_MAX_SHIFT)
        evenly_spaced = not config.get("use_flow_sigmas", False)
        return scheduler_sigmas(self.pipeline.scheduler, denoising_steps, mu, evenly_spaced)

    def velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        positive: Mapping[str, Tensor],
        negative: Mapping[str, Tensor] | None,
        guidance: float,
        size: ImageSize,
    ) -> Tensor:
        """One pass, or two with a negative prompt."""
        with_prompt = self._network(latents, sigma, positive, guidance, size)
        if negative is None:
            return with_prompt
        return guided(with_prompt, self._network(latents, sigma, negative, guidance, size), guidance)

    def decoder_input(self, latents: Tensor, size: ImageSize) -> Tensor:
        """Latents as a picture, in the decoder's units."""
        config = self.pipeline.vae.config
        rows, columns = self._patches(size)
        scaled: Tensor = unpack(latents, 2 * rows, 2 * columns) / config.scaling_factor + config.shift_factor
        return scaled

    def decoded(self, images: Tensor) -> Tensor:
        """The decoder gives pictures as they are."""
        return images

    def encoder_input(self, images: Tensor) -> Tensor:
        """The encoder takes pictures as they are."""
        return images

    def encoded(self, codes: Tensor, size: ImageSize) -> Tensor:
        """The inverse of `decoder_input`."""
        config = self.pipeline.vae.config
        return pack((codes - config.shift_factor) * config.scaling_factor)

    def _network(
        self, latents: Tensor, sigma: Tensor, text: Mapping[str, Tensor], guidance: float, size: ImageSize
    ) -> Tensor:
        strength = torch.full_like(sigma, guidance) if self.is_distilled else None
        predicted: Tensor = self.pipeline.transformer(
            hidden_states=latents,
            # Through the same roundings as the pipeline's, which matter in half precision.
            timestep=(sigma * _TIMESTEPS).to(latents.dtype) / _TIMESTEPS,
            guidance=strength,
            pooled_projections=text["pooled"],
            encoder_hidden_states=text["tokens"],
            txt_ids=torch.zeros(text["tokens"].shape[1], 3, device=latents.device),
            img_ids=patch_positions(*self._patches(size), latents.device),
            return_dict=False,
        )[0]
        return predicted

    def _patches(self, size: ImageSize) -> tuple[int, int]:
        return size.height // self.side_multiple, size.width // self.side_multiple
