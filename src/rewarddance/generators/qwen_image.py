"""Qwen-Image.

Latents are packed patches; prompts are read by a vision-language model and differ in length, with a mask; guidance
is classifier-free in two passes, rescaled to the length of the prompt's own velocity; the decoder is a video
decoder that makes one frame.

Source:
    arXiv:2508.02324; diffusers' QwenImagePipeline.
    Differs: guidance above 1 always runs against a blank prompt, as the model's authors do; the pipeline leaves
    guidance out, with a warning, until it is given a negative prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewarddance.generators.guidance import guided_at_norm
from rewarddance.generators.latent_statistics import latent_statistics
from rewarddance.generators.packing import pack, unpack
from rewarddance.generators.protocol import ImageSize
from rewarddance.generators.schedule import dynamic_shift, scheduler_sigmas

_DEFAULT_MAX_SHIFT = 1.15
_TIMESTEPS = 1000
_LONGEST_PROMPT = 512


@dataclass(frozen=True, slots=True)
class QwenImage:
    """The family's half of a generator; see `Family`."""

    pipeline: Any
    name: str = "qwen_image"
    default_denoising_steps: int = 50
    negative_prompt: str | None = " "
    largest_side: int | None = None
    frame_multiple: int | None = None

    @property
    def default_guidance(self) -> float:
        """Of classifier-free guidance."""
        return 4.0

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
        """Token states of the vision-language model; a mask only where prompts differ in length."""
        tokens, mask = self.pipeline.encode_prompt(
            list(prompts), device=self.pipeline.transformer.device, max_sequence_length=_LONGEST_PROMPT
        )
        return {"tokens": tokens} if mask is None else {"tokens": tokens, "mask": mask}

    def noise(self, rng: torch.Generator, size: ImageSize) -> Tensor:
        """Latents of one picture, drawn as a picture and then packed."""
        factor = self.pipeline.vae_scale_factor
        channels = self.pipeline.transformer.config.in_channels // 4
        return pack(torch.randn(1, channels, size.height // factor, size.width // factor, generator=rng))

    def sigmas(self, denoising_steps: int, size: ImageSize) -> Tensor:
        """Evenly spaced levels, shifted by the number of patches and stretched to the scheduler's last level."""
        rows, columns = self._patches(size)
        mu = dynamic_shift(self.pipeline.scheduler.config, rows * columns, _DEFAULT_MAX_SHIFT)
        return scheduler_sigmas(self.pipeline.scheduler, denoising_steps, mu, evenly_spaced=True)

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
        with_prompt = self._network(latents, sigma, positive, size)
        if negative is None:
            return with_prompt
        return guided_at_norm(with_prompt, self._network(latents, sigma, negative, size), guidance)

    def decoder_input(self, latents: Tensor, size: ImageSize) -> Tensor:
        """Latents as a clip of one frame, in the decoder's units."""
        rows, columns = self._patches(size)
        frame = unpack(latents, 2 * rows, 2 * columns)[:, :, None]
        mean, std = latent_statistics(self.pipeline.vae.config, frame.device)
        return frame * std + mean

    def decoded(self, images: Tensor) -> Tensor:
        """The only frame of each clip."""
        return images[:, :, 0]

    def encoder_input(self, images: Tensor) -> Tensor:
        """Each picture as a clip of one frame."""
        return images[:, :, None]

    def encoded(self, codes: Tensor, size: ImageSize) -> Tensor:
        """The inverse of `decoder_input`."""
        mean, std = latent_statistics(self.pipeline.vae.config, codes.device)
        return pack(((codes - mean) / std)[:, :, 0])

    def _network(self, latents: Tensor, sigma: Tensor, text: Mapping[str, Tensor], size: ImageSize) -> Tensor:
        rows, columns = self._patches(size)
        predicted: Tensor = self.pipeline.transformer(
            hidden_states=latents,
            # Through the same roundings as the pipeline's, which matter in half precision.
            timestep=(sigma * _TIMESTEPS).to(latents.dtype) / _TIMESTEPS,
            encoder_hidden_states=text["tokens"],
            encoder_hidden_states_mask=text.get("mask"),
            img_shapes=[[(1, rows, columns)]] * len(latents),
            return_dict=False,
        )[0]
        return predicted

    def _patches(self, size: ImageSize) -> tuple[int, int]:
        return size.height // self.side_multiple, size.width // self.side_multiple
