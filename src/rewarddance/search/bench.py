"""One prompt before one generator: every step that a search takes, in batches, and counted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.errors import UsageError
from rewarddance.core.seeding import derive_seed
from rewarddance.generators.protocol import Generator, ImageSize, refuse_clips
from rewarddance.generators.sampling import noise_levels, rows_of
from rewarddance.objectives.flow import ode_step
from rewarddance.search.budget import Meter


@dataclass(frozen=True, slots=True)
class Drawing:
    """How pictures are made, whatever the search.

    Attributes:
        denoising_steps: From noise to picture; None for the generator's own.
        guidance: None for the generator's own.
        size: None for the generator's own.
        batch_size: Pictures at once; decides the memory, not the pictures.
    """

    denoising_steps: int | None = None
    guidance: float | None = None
    size: ImageSize | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.denoising_steps is not None and self.denoising_steps < 1):
            raise UsageError("a batch holds at least one picture, and a picture takes at least one denoising step")

    def sigmas(self, generator: Generator) -> Float[Tensor, " steps_and_end"]:
        """Noise levels of the way, which decide what a search costs.

        Raises:
            UsageError: The generator makes clips, or cannot make such pictures.
        """
        refuse_clips(generator, "a search")
        return noise_levels(generator, self.denoising_steps, self.size)


DEFAULT_DRAWING = Drawing()


def nearest_step(sigmas: Float[Tensor, " steps_and_end"], level: float) -> int:
    """The place on the way whose noise level is nearest; of two, the earlier."""
    return int((sigmas - level).abs().argmin())


class Bench:
    """What a search does with latents of one prompt.

    Attributes:
        prompt: What the pictures are to show.
        sigmas: Noise levels of the way; place k is before step k, the last is the picture.
        meter: What was spent.
    """

    def __init__(self, generator: Generator, prompt: str, drawing: Drawing, seed: int) -> None:
        """Read the prompt.

        Args:
            generator: Makes the pictures.
            prompt: What they are to show.
            drawing: How they are made.
            seed: Decides all noise.
        """
        self.prompt = prompt
        self.sigmas = drawing.sigmas(generator)
        self.meter = Meter()
        self._generator = generator
        self._drawing = drawing
        self._seed = seed
        self._conditions = generator.encode([prompt], drawing.size)

    @property
    def last(self) -> int:
        """The place of the finished picture: the number of denoising steps."""
        return len(self.sigmas) - 1

    def seeds(self, count: int, *names: str | int) -> list[int]:
        """Seeds for one purpose, the same for every kind of search; without a purpose, of initial noise."""
        return [derive_seed(self._seed, "search", self.prompt, *names, index) for index in range(count)]

    def noise(self, seeds: Sequence[int]) -> Float[Tensor, " rows *latent"]:
        """Standard normal latents, one row a seed."""
        return self._generator.initial_noise(seeds, self._drawing.size)

    @torch.no_grad()
    def velocity(self, latents: Float[Tensor, " rows *latent"], place: int) -> Float[Tensor, " rows *latent"]:
        """Where latents at a place of the way are going."""
        self.meter.count(velocities=len(latents))
        parts = []
        for part in _batches(latents, self._drawing.batch_size):
            conditions = self._conditions.select([0] * len(part))
            sigma = rows_of(self.sigmas[place], part)
            parts.append(self._generator.velocity(part, sigma, conditions, self._drawing.guidance))
        return torch.cat(parts)

    def denoise(self, latents: Float[Tensor, " rows *latent"], start: int, stop: int) -> Float[Tensor, " rows *latent"]:
        """Follow the velocity from one place to another."""
        for place in range(start, stop):
            latents = ode_step(latents, self.velocity(latents, place), self.sigmas[place], self.sigmas[place + 1])
        return latents

    @torch.no_grad()
    def pictures(self, latents: Float[Tensor, " rows *latent"]) -> Float[Tensor, "rows 3 height width"]:
        """Pixels on the CPU, RGB in [0, 1] in steps of 1/255: what is judged is what a file would hold."""
        self.meter.count(decodes=len(latents))
        parts = [
            self._generator.decode(part, self._drawing.size) for part in _batches(latents, self._drawing.batch_size)
        ]
        return (torch.cat(parts).float().cpu().clamp(0, 1) * 255).round() / 255


def _batches(latents: Float[Tensor, " rows *latent"], size: int) -> Iterator[Float[Tensor, " batch *latent"]]:
    return (latents[start : start + size] for start in range(0, len(latents), size))
