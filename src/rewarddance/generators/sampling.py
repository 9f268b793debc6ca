"""From noise to pictures or clips: deterministic, in any part of the way; or random, with what a policy gradient needs.

Everything is written once against `Generator`; no family has a loop of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.errors import UsageError
from rewarddance.core.seeding import derive_seed
from rewarddance.generators.protocol import Conditions, Generator, ImageSize
from rewarddance.objectives.flow import ode_step
from rewarddance.objectives.sde import Reduction, SdeNoise, SdeStep, log_prob, sde_step, stochastic_places

_NOISE = 1.0001
"""With room for rounding."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Latents of a batch over all denoising steps, as a stochastic sampler went.

    Attributes:
        latents: Before the first step, and after each.
        log_probs: Of each step's latents given the ones before; NaN where the step was deterministic.
        sigmas: Noise level of each entry of `latents`.
        stochastic_steps: Which steps drew noise, in order.
    """

    latents: Float[Tensor, " steps_and_start batch *latent"]
    log_probs: Float[Tensor, "steps batch"]
    sigmas: Float[Tensor, " steps_and_start"]
    stochastic_steps: tuple[int, ...]

    @property
    def final(self) -> Float[Tensor, " batch *latent"]:
        """Latents to decode."""
        return self.latents[-1]


def noise_levels(
    generator: Generator, denoising_steps: int | None = None, size: ImageSize | None = None
) -> Float[Tensor, " steps_and_end"]:
    """Noise levels of a generator's way; one of one's own may have another scale in mind.

    Args:
        generator: Whose way.
        denoising_steps: From noise to picture; None for the generator's own.
        size: Of the pictures; None for the generator's own.

    Raises:
        UsageError: There is no step, or the levels do not fall from at most 1 to 0, one more than steps.
    """
    steps = generator.default_denoising_steps if denoising_steps is None else denoising_steps
    if steps < 1:
        raise UsageError(f"a picture takes at least one denoising step, not {steps}")
    sigmas = generator.sigmas(steps, size)
    levels = sigmas.tolist()
    is_falling = all(higher > lower for higher, lower in pairwise(levels))
    if len(levels) != steps + 1 or not is_falling or levels[-1] != 0 or levels[0] > _NOISE:
        raise UsageError(
            f"generator {generator.name!r} gives {len(levels)} noise levels from {levels[0]:g} to {levels[-1]:g} "
            f"for {steps} steps; they fall from at most 1, which is noise, to 0, one more than there are steps"
        )
    return sigmas


@torch.no_grad()
def sample(
    generator: Generator,
    conditions: Conditions,
    latents: Float[Tensor, " batch *latent"],
    sigmas: Float[Tensor, " steps_and_end"],
    guidance: float | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Float[Tensor, " batch *latent"]:
    """Follow the velocity, without gradient.

    Args:
        generator: Whose velocity.
        conditions: One row a row of latents.
        latents: At noise level `sigmas[start]`.
        sigmas: Of the whole way; see `Generator.sigmas`.
        guidance: None for the generator's own.
        start: First step to take.
        stop: Step before which to stop; None for the end.

    Returns:
        Latents at noise level `sigmas[stop]`.
    """
    for step in range(start, len(sigmas) - 1 if stop is None else stop):
        velocity = generator.velocity(latents, rows_of(sigmas[step], latents), conditions, guidance)
        latents = ode_step(latents, velocity, sigmas[step], sigmas[step + 1])
    return latents


@torch.no_grad()
def generate(
    generator: Generator,
    prompts: Sequence[str],
    seeds: Sequence[int],
    size: ImageSize | None = None,
    denoising_steps: int | None = None,
    guidance: float | None = None,
    batch_size: int = 8,
) -> Float[Tensor, "pictures *frames 3 height width"]:
    """Pictures or clips of prompts, on the CPU.

    Args:
        generator: Makes them.
        prompts: One a picture.
        seeds: Of the initial noise, one a picture.
        size: None for the generator's own.
        denoising_steps: None for the generator's own.
        guidance: None for the generator's own.
        batch_size: Pictures at once.

    Raises:
        UsageError: Nothing to make, not one seed a prompt, no picture at once, or noise levels that are none.
    """
    if not prompts or len(seeds) != len(prompts):
        raise UsageError(f"every prompt needs a seed; there are {len(prompts)} prompts and {len(seeds)} seeds")
    if batch_size < 1:
        raise UsageError(f"a batch holds at least one picture, not {batch_size}")
    sigmas = noise_levels(generator, denoising_steps, size)
    pictures = []
    for first in range(0, len(prompts), batch_size):
        conditions = generator.encode(prompts[first : first + batch_size], size)
        noise = generator.initial_noise(seeds[first : first + batch_size], size)
        latents = sample(generator, conditions, noise, sigmas, guidance)
        pictures.append(generator.decode(latents, size).cpu())
    return torch.cat(pictures)


@torch.no_grad()
def sample_sde(
    generator: Generator,
    conditions: Conditions,
    latents: Float[Tensor, " batch *latent"],
    sigmas: Float[Tensor, " steps_and_end"],
    guidance: float | None,
    noise: SdeNoise,
    seeds: Sequence[int],
    stochastic_steps: Sequence[int] | None = None,
    reduce: Reduction = "mean",
) -> Trajectory:
    """Go from noise to clean latents by random steps, and remember the way.

    Args:
        generator: The policy.
        conditions: One row a row of latents.
        latents: At noise level `sigmas[0]`.
        sigmas: See `Generator.sigmas`.
        guidance: None for the generator's own.
        noise: Kind and strength of the steps' noise.
        seeds: Of the steps' noise, one a row: a row's way does not depend on the rest of the batch. The seed of the
            row's initial noise may serve again; what is drawn here has nothing to do with it.
        stochastic_steps: Which steps draw noise, the others follow the velocity; None for all that leave none in the
            picture, see `stochastic_places`.
        reduce: Whether log-probabilities are means or sums over latents.

    Raises:
        UsageError: Not one seed a row.
    """
    if len(seeds) != len(latents):
        raise UsageError(f"there are {len(seeds)} seeds for {len(latents)} rows of latents")
    steps = len(sigmas) - 1
    chosen = stochastic_places(sigmas, noise) if stochastic_steps is None else sorted(set(stochastic_steps))
    way, log_probs = [latents], []
    for step in range(steps):
        if step not in chosen:
            velocity = generator.velocity(way[-1], rows_of(sigmas[step], latents), conditions, guidance)
            way.append(ode_step(way[-1], velocity, sigmas[step], sigmas[step + 1]))
            log_probs.append(torch.full((len(latents),), torch.nan, device=latents.device))
            continue
        transition = stochastic_step(generator, conditions, way[-1], sigmas, step, guidance, noise)
        way.append(transition.draw(_step_noise(seeds, step, latents)))
        log_probs.append(log_prob(way[-1], transition, reduce))
    return Trajectory(torch.stack(way), torch.stack(log_probs), sigmas, tuple(chosen))


def stochastic_step(
    generator: Generator,
    conditions: Conditions,
    latents: Float[Tensor, " batch *latent"],
    sigmas: Float[Tensor, " steps_and_end"],
    step: int,
    guidance: float | None,
    noise: SdeNoise,
) -> SdeStep:
    """The Gaussian of one step, with gradient: the same code when sampling and when weighing what was sampled.

    Args:
        generator: The policy.
        conditions: One row a row of latents.
        latents: At noise level `sigmas[step]`.
        sigmas: Of the whole way.
        step: Which step of it.
        guidance: None for the generator's own.
        noise: Kind and strength.
    """
    velocity = generator.velocity(latents, rows_of(sigmas[step], latents), conditions, guidance)
    return sde_step(latents, velocity, sigmas[step], sigmas[step + 1], noise, largest_below_one(sigmas))


def largest_below_one(sigmas: Float[Tensor, " steps_and_end"]) -> float:
    """The noise level that stands in for 1 where a schedule would divide by 0; 0 when there is only one step."""
    return float(sigmas[sigmas < 1.0].max())


def rows_of(sigma: Float[Tensor, " *rows"], latents: Float[Tensor, " batch *latent"]) -> Float[Tensor, " batch"]:
    """One noise level for all rows, or one for each, as `Generator.velocity` takes it."""
    return sigma.to(latents.device, torch.float32).expand(len(latents))


def _step_noise(
    seeds: Sequence[int], step: int, latents: Float[Tensor, " batch *latent"]
) -> Float[Tensor, " batch *latent"]:
    rngs = [torch.Generator().manual_seed(derive_seed(seed, "denoising noise", step)) for seed in seeds]
    return torch.stack([torch.randn(latents.shape[1:], generator=rng) for rng in rngs]).to(latents)
