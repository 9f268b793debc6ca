"""Stable Diffusion 3 and 3.5.

Latents are pictures of patches that the network cuts itself; guidance runs the prompt and the empty prompt in one
batch; the network is told the scheduler's timestep (0 to 1000).

Source:
    arXiv:2403.03206; diffusers' StableDiffusion3Pipeline.
    Differs: no skip-layer guidance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewarddance.generators.guidance import guided
from rewarddance.generators.protocol import ImageSize
from rewarddance.generators.schedule import dynamic_shift, scheduler_sigmas
from rewarddance.generators.sd3_attention import leave_out_unread_queries

_DEFAULT_MAX_SHIFT = 1.16  # what the pipeline assumes where the scheduler does not say; FLUX's assumes 1.15


@dataclass(frozen=True, slots=True)
class StableDiffusion3:
    """The family's half of a generator; see `Family`."""

    pipeline: Any
    name: str = "sd3"
    default_denoising_steps: int = 28
    negative_prompt: str | None = ""
    frame_multiple: int | None = None

    def __post_init__(self) -> None:
        leave_out_unread_queries(self.pipeline.transformer)

    @property
    def default_guidance(self) -> float:
        """Of classifier-free guidance."""
        return 7.0

    @property
    def default_size(self) -> ImageSize:
        """What the network was trained on."""
        side = self.pipeline.default_sample_size * self.pipeline.vae_scale_factor
        return ImageSize(side, side)

    @property
    def side_multiple(self) -> int:
        """A side is a whole number of patches."""
        return int(self.pipeline.vae_scale_factor * self.pipeline.patch_size)

    @property
    def largest_side(self) -> int | None:
        """The table of positions ends here."""
        return int(self.pipeline.transformer.config.pos_embed_max_size * self.side_multiple)

    def read(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Token states of all text encoders, and the pooled states of two."""
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), None, None, do_classifier_free_guidance=False, device=self.pipeline.transformer.device
        )
        return {"tokens": tokens, "pooled": pooled}

    def noise(self, rng: torch.Generator, size: ImageSize) -> Tensor:
        """Latents of one picture."""
        factor = self.pipeline.vae_scale_factor
        channels = self.pipeline.transformer.config.in_channels
        return torch.randn(1, channels, size.height // factor, size.width // factor, generator=rng)

    def sigmas(self, denoising_steps: int, size: ImageSize) -> Tensor:
        """The scheduler's own levels; most checkpoints shift them by a fixed 3."""
        config = self.pipeline.scheduler.config
        patches = (size.height // self.side_multiple) * (size.width // self.side_multiple)
        mu = dynamic_shift(config, patches, _DEFAULT_MAX_SHIFT) if config.use_dynamic_shifting else None
        return scheduler_sigmas(self.pipeline.scheduler, denoising_steps, mu, evenly_spaced=False)

    def velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        positive: Mapping[str, Tensor],
        negative: Mapping[str, Tensor] | None,
        guidance: float,
        size: ImageSize,
    ) -> Tensor:
        """With a negative prompt both halves run as one batch, the negative first."""
        timestep = sigma * self.pipeline.scheduler.config.num_train_timesteps
        if negative is None:
            return self._network(latents, timestep, positive)
        text = {name: torch.cat([negative[name], positive[name]]) for name in positive}
        both = self._network(torch.cat([latents, latents]), torch.cat([timestep, timestep]), text)
        without, with_prompt = both.chunk(2)
        return guided(with_prompt, without, guidance)

    def decoder_input(self, latents: Tensor, size: ImageSize) -> Tensor:
        """Latents in the decoder's units."""
        config = self.pipeline.vae.config
        scaled: Tensor = latents / config.scaling_factor + config.shift_factor
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
        latents: Tensor = (codes - config.shift_factor) * config.scaling_factor
        return latents

    def _network(self, latents: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        predicted: Tensor = self.pipeline.transformer(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=text["tokens"],
            pooled_projections=text["pooled"],
            return_dict=False,
        )[0]
        return predicted
