"""Small flow generators that draw in pixel space: diffusers' PixArt transformer behind a grammar of prompts.

Source:
    Flow matching, Lipman et al., arXiv:2210.02747; the network predicts the picture and its velocity follows, after
    Li and He, arXiv:2511.13720 ("just image transformers"), which is what makes large patches of pixels learnable.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, PixArtTransformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from rewarddance.core.errors import ModelError, UsageError
from rewarddance.generators.adapters import as_trained
from rewarddance.generators.merged_weights import merged_network
from rewarddance.generators.phrases import PhraseEncoder, read_phrases
from rewarddance.generators.protocol import Conditions, ImageSize

CLASS_NAME = "DrawnPipeline"
SMALLEST_SIGMA = 0.05
"""Below this noise level the velocity is that of this level: it is the picture's error divided by sigma."""

_TIMESTEPS = 1000
_TEXT = "phrases"


class DrawnGenerator:
    """A picture of `side` x `side` pixels from one or two phrases; implements `Generator`."""

    name = "drawn"

    def __init__(self, transformer: Any, encoder: PhraseEncoder, settings: Mapping[str, Any]) -> None:
        self._transformer = transformer
        self._encoder = encoder
        self._settings = dict(settings)
        side = int(transformer.config.sample_size)
        self.default_size = ImageSize(side, side)
        self.default_denoising_steps = int(settings["denoising_steps"])
        self.default_guidance = float(settings["guidance"])

    @property
    def module(self) -> nn.Module:
        """The transformer."""
        module: nn.Module = self._transformer
        return module

    @property
    def frozen_modules(self) -> Mapping[str, nn.Module]:
        """None: prompts are read by a grammar, and pixels need no decoder."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.module.parameters()).device

    def encode(self, prompts: Sequence[str], size: ImageSize | None = None) -> Conditions:
        """Read prompts of the grammar; the negative side is the empty prompt."""
        self._check(size)
        phrases = self._encoder.encode(prompts).to(self.device)
        return Conditions({_TEXT: phrases}, {_TEXT: torch.zeros_like(phrases)}, self.default_size)

    def initial_noise(self, seeds: Sequence[int], size: ImageSize | None = None) -> Float[Tensor, " batch *latent"]:
        """Pixels of pure noise."""
        self._check(size)
        shape = (3, self.default_size.height, self.default_size.width)
        rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(self.device)

    def sigmas(self, denoising_steps: int, size: ImageSize | None = None) -> Float[Tensor, " steps_and_end"]:
        """Evenly spaced."""
        self._check(size)
        return torch.linspace(1.0, 0.0, denoising_steps + 1)

    def velocity(
        self,
        latents: Float[Tensor, " batch *latent"],
        sigma: Float[Tensor, " batch"],
        conditions: Conditions,
        guidance: float | None = None,
    ) -> Float[Tensor, " batch *latent"]:
        """Classifier-free guidance: 1 shows the prompt as learned, more shows it more strongly."""
        strength = self.default_guidance if guidance is None else guidance
        prompted = conditions.positive[_TEXT]
        if strength == 1 or conditions.negative is None:
            return self._velocity(latents, sigma, prompted)
        both = torch.cat([prompted, conditions.negative[_TEXT]])
        shown, free = self._velocity(latents.repeat(2, 1, 1, 1), sigma.repeat(2), both).chunk(2)
        return free + strength * (shown - free)

    def decode(
        self, latents: Float[Tensor, " batch *latent"], size: ImageSize | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Pixels from -1..1 to 0..1."""
        self._check(size)
        return ((latents + 1) / 2).clamp(0, 1)

    def latents_of(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " batch *latent"]:
        """Pixels from 0..1 to -1..1."""
        return pixels.to(self.device) * 2 - 1

    def gradient_checkpointing(self, is_on: bool) -> None:
        """Compute the transformer's activations again in the backward pass."""
        if is_on:
            self._transformer.enable_gradient_checkpointing()
        else:
            self._transformer.disable_gradient_checkpointing()

    def save(self, folder: Path) -> None:
        """Write `transformer/`, `scheduler/`, the grammar, and `model_index.json`, in diffusers' layout."""
        folder.mkdir(parents=True, exist_ok=True)
        merged_network(self._transformer).save_pretrained(folder / "transformer")
        scheduler: Any = FlowMatchEulerDiscreteScheduler
        scheduler(num_train_timesteps=_TIMESTEPS, shift=1.0).save_pretrained(folder / "scheduler")
        self._encoder.save(folder)
        index = {
            "_class_name": CLASS_NAME,
            "transformer": ["diffusers", "PixArtTransformer2DModel"],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            **self._settings,
        }
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _velocity(self, latents: Tensor, sigma: Tensor, phrases: Tensor) -> Tensor:
        dtype = next(self.module.parameters()).dtype
        with as_trained(self.module):
            picture: Tensor = self._transformer(
                latents.to(dtype),
                encoder_hidden_states=phrases.to(dtype),
                timestep=(sigma * _TIMESTEPS).to(dtype),
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample.float()
        return (latents.float() - picture) / sigma.clamp_min(SMALLEST_SIGMA).reshape(-1, 1, 1, 1)

    def _check(self, size: ImageSize | None) -> None:
        if size not in (None, self.default_size):
            side = self.default_size.width
            raise UsageError(
                f"this generator draws pictures of {side} x {side} pixels only; leave height, width and frames out"
            )


def load_drawn(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> DrawnGenerator:
    """Read a folder that `DrawnGenerator.save` wrote.

    Raises:
        ModelError: A file is missing or damaged.
    """
    try:
        settings = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        network: Any = PixArtTransformer2DModel
        transformer, report = network.from_pretrained(
            folder / "transformer",
            local_files_only=True,
            use_safetensors=True,
            torch_dtype=dtype,
            output_loading_info=True,
        )
        kept = {name: settings[name] for name in ("denoising_steps", "guidance")}
    except (OSError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())
        raise ModelError(f"{folder} holds no drawn generator that can be read ({line}); restore the folder") from error
    if report["missing_keys"]:  # diffusers would leave them without values
        raise ModelError(f"{folder}: weights are missing, such as {report['missing_keys'][0]}; copy the folder again")
    return DrawnGenerator(transformer.to(device).eval(), read_phrases(folder), kept)
