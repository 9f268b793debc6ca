"""Particles: pictures of one prompt are made side by side, and at chosen noise levels good ones replace bad ones.

Steps are stochastic, so that copies go different ways, but for those that would leave noise in the picture: the last
one, and others that step far down.
With many particles the weighted candidates are a sample of the generator's distribution tilted by exp(strength times
reward); with a few, it is a search.

Source:
    Feynman-Kac steering, arXiv:2501.06848, Algorithm 1, with the generator's own step as proposal and the one-step
    prediction of the picture as what is judged on the way; weights in `search.potentials`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from rewarddance.core.choices import require_choice
from rewarddance.core.errors import UsageError
from rewarddance.core.seeding import numpy_rng
from rewarddance.generators.protocol import Generator
from rewarddance.generators.sampling import largest_below_one
from rewarddance.objectives.flow import ode_step, x0_prediction
from rewarddance.objectives.sde import SdeNoise, sde_step, stochastic_places
from rewarddance.search.bench import DEFAULT_DRAWING, Bench, Drawing, nearest_step
from rewarddance.search.budget import Budget
from rewarddance.search.potentials import Potential, log_weights, resample, shares
from rewarddance.search.results import Candidate, Look, SearchResult
from rewarddance.search.verification import Verdict, Verifier, verify


@dataclass(frozen=True, slots=True)
class ParticleSettings:
    """How particles are steered.

    Attributes:
        particles: How many, always.
        levels: Noise levels at which they are judged and resampled, falling; each stands for the nearest on the way.
        strength: What one unit of log-odds is worth; 0.7 doubles the copies.
        potential: How rewards on the way count.
        noise: Of the stochastic steps.
        seed: Decides all noise.
    """

    particles: int = 16
    levels: tuple[float, ...] = (0.75, 0.5)
    strength: float = 1.0
    potential: Potential = "difference"
    noise: SdeNoise = field(default_factory=SdeNoise)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.particles < 2:
            raise UsageError("resampling needs at least two particles")
        require_choice("potential", self.potential, get_args(Potential))
        if self.strength <= 0 or self.noise.level <= 0:
            raise UsageError("strength and noise of particles are above 0; without them nothing is searched")
        falling = all(higher > lower for higher, lower in pairwise(self.levels))
        if not self.levels or not falling or not 0 < self.levels[-1] <= self.levels[0] < 1:
            raise UsageError(f"noise levels fall within 1 and 0; {self.levels} do not")


@dataclass(slots=True)
class _Swarm:
    """Particles at one place of the way, with what is remembered of those that they were copied from."""

    latents: Float[Tensor, " particles *latent"]
    lineages: list[tuple[int, ...]]
    history: Float[ndarray, "looks particles"]

    def remember(self, verdict: Verdict) -> None:
        rewards = [np.nan if opinion.reward is None else opinion.reward for opinion in verdict.opinions]
        self.history = np.vstack([self.history, rewards])

    def copy(self, parents: Sequence[int]) -> None:
        self.latents = self.latents[list(parents)]
        self.lineages = [(*self.lineages[parent], parent) for parent in parents]
        self.history = self.history[:, list(parents)]


def steer_particles(
    generator: Generator,
    verifier: Verifier,
    prompts: Sequence[str],
    settings: ParticleSettings,
    drawing: Drawing = DEFAULT_DRAWING,
) -> list[SearchResult]:
    """Search for the best picture of each prompt; see `search_for` for one."""
    return [search_for(generator, verifier, prompt, settings, drawing) for prompt in prompts]


def search_for(
    generator: Generator,
    verifier: Verifier,
    prompt: str,
    settings: ParticleSettings,
    drawing: Drawing = DEFAULT_DRAWING,
) -> SearchResult:
    """Steer the particles of one prompt.

    Raises:
        UsageError: The verifier gives no scores, or the generator takes too few denoising steps for the levels.
    """
    bench = Bench(generator, prompt, drawing, settings.seed)
    stated = particle_budget(settings, bench.sigmas, verifier)
    places = _places(settings, bench.sigmas)
    seeds = bench.seeds(settings.particles)
    count = settings.particles
    swarm = _Swarm(bench.noise(seeds), [(index,) for index in range(count)], np.empty((0, count)))
    looks: list[Look] = []
    stochastic = stochastic_places(bench.sigmas, settings.noise)
    for place in range(bench.last):
        velocity = bench.velocity(swarm.latents, place)
        if place in places:
            parents = _resampled(bench, verifier, swarm, velocity, place, settings, looks)
            velocity = velocity[parents]
        if place in stochastic:
            swarm.latents = _drawn(bench, swarm.latents, velocity, place, settings)
        else:
            swarm.latents = ode_step(swarm.latents, velocity, bench.sigmas[place], bench.sigmas[place + 1])
    pixels = bench.pictures(swarm.latents)
    verdict = verify(verifier, prompt, pixels, bench.meter)
    swarm.remember(verdict)
    final = log_weights(swarm.history, settings.potential, settings.strength, is_last=True)
    weights = shares(final) if verdict.order else np.zeros(count)
    candidates = tuple(
        Candidate(seeds[lineage[0]], picture, opinion, lineage, float(weight))
        for lineage, picture, opinion, weight in zip(swarm.lineages, pixels, verdict.opinions, weights, strict=True)
    )
    return SearchResult(prompt, candidates, verdict.order, stated, bench.meter.spent, tuple(looks), verdict.problem)


def particle_budget(settings: ParticleSettings, sigmas: Float[Tensor, " steps_and_end"], verifier: Verifier) -> Budget:
    """What it costs for one prompt: a look takes no velocity of its own, the next step needs the same.

    Raises:
        UsageError: The verifier gives no scores, or the way has too few steps for the levels.
    """
    if verifier.way != "score":
        raise UsageError("particles are weighed by scores; a tournament has none to give, so use score")
    looks = len(_places(settings, sigmas)) + 1
    n = settings.particles
    return Budget(n * (len(sigmas) - 1), n * looks, looks * verifier.judgements(n))


def _places(settings: ParticleSettings, sigmas: Float[Tensor, " steps_and_end"]) -> tuple[int, ...]:
    places = tuple(nearest_step(sigmas, level) for level in settings.levels)
    # Before the first step nothing is there to judge; after the last stochastic one, copies would stay copies.
    stochastic = stochastic_places(sigmas, settings.noise)
    if places[0] < 1 or places[-1] not in stochastic or len(set(places)) < len(places):
        raise UsageError(
            f"{len(sigmas) - 1} denoising steps are too few for noise levels {settings.levels}: each needs a step of "
            f"its own, not the first and none after step {len(stochastic)}, the last stochastic one; take more steps "
            "or other levels"
        )
    return places


def _resampled(
    bench: Bench,
    verifier: Verifier,
    swarm: _Swarm,
    velocity: Float[Tensor, " particles *latent"],
    place: int,
    settings: ParticleSettings,
    looks: list[Look],
) -> list[int]:
    """Which particle each new one copies; all stay as they are when none could be judged."""
    sigma = bench.sigmas[place]
    verdict = verify(verifier, bench.prompt, bench.pictures(x0_prediction(swarm.latents, velocity, sigma)), bench.meter)
    swarm.remember(verdict)
    parents = list(range(settings.particles))
    if verdict.order:
        weights = shares(log_weights(swarm.history, settings.potential, settings.strength, is_last=False))
        parents = resample(weights, numpy_rng(settings.seed, "search", bench.prompt, "resample", place)).tolist()
    number = looks[-1].round + 1 if looks else 0
    for index, (lineage, opinion) in enumerate(zip(swarm.lineages, verdict.opinions, strict=True)):
        looks.append(Look(number, float(sigma), lineage, opinion, copies=parents.count(index)))
    swarm.copy(parents)
    return parents


def _drawn(
    bench: Bench,
    latents: Float[Tensor, " particles *latent"],
    velocity: Float[Tensor, " particles *latent"],
    place: int,
    settings: ParticleSettings,
) -> Float[Tensor, " particles *latent"]:
    sigma, lower = bench.sigmas[place], bench.sigmas[place + 1]
    step = sde_step(latents, velocity, sigma, lower, settings.noise, largest_below_one(bench.sigmas))
    return step.draw(bench.noise(bench.seeds(len(latents), "step", place)))
