"""Wan 2.1, from text to clips.

Latents are clips of patches that the network cuts itself: of `4 n + 1` frames, the first has a latent frame of its own
and every four further ones share one. Guidance is classifier-free in two passes, one after the other, as in the
pipeline: a clip fills the memory that two pictures would share. The decoder goes from latent frame to latent frame.

Source:
    arXiv:2503.20314; diffusers' WanPipeline.
    Differs: published folders name a multistep solver (UniPCMultistepScheduler with flow sigmas). Its noise levels are
    taken, with 1 in the place of 1 - 1e-6, which only its logarithms need; steps follow the velocity as
    FlowMatchEulerDiscreteScheduler's do, since its history has no likelihood and no gradient of a single step; and the
    network is told the noise level as it is, not cut to a whole timestep. With the same number of steps, clips are a
    little less exact than the pipeline's own.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewarddance.generators.guidance import guided
from rewarddance.generators.latent_statistics import latent_statistics
from rewarddance.generators.protocol import ImageSize
from rewarddance.generators.schedule import scheduler_sigmas

_LONGEST_PROMPT = 512
_NEARLY_NOISE = 1.0 - 1e-5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wan:
    """The family's half of a generator; see `Family`."""

    pipeline: Any
    name: str = "wan"
    default_denoising_steps: int = 50
    negative_prompt: str | None = ""

    @property
    def default_guidance(self) -> float:
        """Of classifier-free guidance."""
        return 5.0

    @property
    def default_size(self) -> ImageSize:
        """The pipeline's."""
        return ImageSize(480, 832, 81)

    @property
    def side_multiple(self) -> int:
        """A side is a whole number of patches."""
        return int(self.pipeline.vae_scale_factor_spatial * self.pipeline.transformer.config.patch_size[-1])

    @property
    def largest_side(self) -> int | None:
        """The table of positions ends here."""
        return int(self.pipeline.transformer.config.rope_max_seq_len * self.side_multiple)

    @property
    def frame_multiple(self) -> int | None:
        """Frames that share a latent frame; the first frame has its own."""
        return int(self.pipeline.vae_scale_factor_temporal)

    def read(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Token states of UMT5, filled up with zeros to the length that the network was trained with."""
        self._tell_of_long(prompts)
        tokens, _ = self.pipeline.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            max_sequence_length=_LONGEST_PROMPT,
            device=self.pipeline.transformer.device,
        )
        return {"tokens": tokens}

    def noise(self, rng: torch.Generator, size: ImageSize) -> Tensor:
        """Latents of one clip."""
        factor, frames = self.pipeline.vae_scale_factor_spatial, size.frames or 1
        latent_frames = (frames - 1) // self.pipeline.vae_scale_factor_temporal + 1
        channels = self.pipeline.transformer.config.in_channels
        return torch.randn(1, channels, latent_frames, size.height // factor, size.width // factor, generator=rng)

    def sigmas(self, denoising_steps: int, size: ImageSize) -> Tensor:
        """The scheduler's own levels, shifted by a fixed number whatever the size."""
        levels = scheduler_sigmas(self.pipeline.scheduler, denoising_steps, mu=None, evenly_spaced=False)
        return levels.where(levels < _NEARLY_NOISE, levels.clamp_min(1.0))

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
        timestep = sigma * self.pipeline.scheduler.config.num_train_timesteps
        with_prompt = self._network(latents, timestep, positive)
        if negative is None:
            return with_prompt
        return guided(with_prompt, self._network(latents, timestep, negative), guidance)

    def decoder_input(self, latents: Tensor, size: ImageSize) -> Tensor:
        """Latents in the decoder's units."""
        mean, std = latent_statistics(self.pipeline.vae.config, latents.device)
        return latents * std + mean

    def decoded(self, images: Tensor) -> Tensor:
        """Frames before channels."""
        return images.transpose(1, 2)

    def encoder_input(self, images: Tensor) -> Tensor:
        """Channels before frames."""
        return images.transpose(1, 2)

    def encoded(self, codes: Tensor, size: ImageSize) -> Tensor:
        """The inverse of `decoder_input`."""
        mean, std = latent_statistics(self.pipeline.vae.config, codes.device)
        return (codes - mean) / std

    def _network(self, latents: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        predicted: Tensor = self.pipeline.transformer(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=text["tokens"],
            return_dict=False,
        )[0]
        return predicted

    def _tell_of_long(self, prompts: Sequence[str]) -> None:
        """The pipeline cuts prompts off without a word."""
        lengths = map(len, self.pipeline.tokenizer(list(prompts)).input_ids)
        for prompt, length in zip(prompts, lengths, strict=True):
            if length > _LONGEST_PROMPT:
                _log.warning(
                    "a prompt of %d tokens is cut off after %d: %.60s...",
                    length,
                    _LONGEST_PROMPT,
                    " ".join(prompt.split()),
                )
