"""DRaFT-K: the final picture's reward, with gradient through the last K denoising steps; DRTune as an option.

Source:
    DRaFT, arXiv:2309.17400, section 4.2; DRTune, arXiv:2405.00760, section 3.2.
    Differs from DRTune: the steps with gradient are the last ones, not spread over the trajectory.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch

from rewarddance.config.alignment_methods import DraftConfig
from rewarddance.objectives.flow import ode_step
from rewarddance.objectives.reward_feedback import network_input, refl_loss
from rewarddance.training.prompt_draws import Draw
from rewarddance.training.regulariser import velocity_pull
from rewarddance.training.workbench import LossPart, Workbench


class Draft:
    """Gradient through the sampler; needs a differentiable reward."""

    updates_per_rollout = 1

    def __init__(self, bench: Workbench, settings: DraftConfig) -> None:
        self._bench = bench
        self._settings = settings

    def updates(self, optimizer_step: int) -> Iterator[Iterable[LossPart]]:
        """See `Method.updates`."""
        batches = self._bench.config.gradient_accumulation
        draws = self._bench.draws.draws(optimizer_step * batches, batches)
        yield (self._part(optimizer_step, number, draw) for number, draw in enumerate(draws))

    def _part(self, optimizer_step: int, number: int, draw: Draw) -> LossPart:
        bench = self._bench
        sigmas, steps = bench.sigmas, len(bench.sigmas) - 1
        first = max(0, steps - self._settings.last_steps)
        conditions = bench.conditions(draw.prompts)
        latents = bench.denoised(bench.noise(draw.seeds), conditions, stop=first)
        pulls = []
        for sigma, next_sigma in pairwise(sigmas[first:]):
            seen = network_input(latents, "cut" if self._settings.detach_inputs else "kept")
            velocity = bench.policy.velocity(seen, sigma, conditions, bench.guidance)
            pulls.append(velocity_pull(bench, velocity, seen, sigma, conditions))
            latents = ode_step(latents, velocity, sigma, next_sigma)
        values = bench.climb(bench.pictures(latents), draw.prompts, optimizer_step, number)
        pull = torch.stack([pull.loss for pull in pulls]).mean()
        distances = [pull.distance for pull in pulls if pull.distance is not None]
        distance = torch.stack(distances).mean(0) if distances else None
        loss = refl_loss(values.combined, self._settings.ceiling, values.proxy).mean() + pull
        return LossPart(loss / bench.config.gradient_accumulation, draw.prompts, values.proxy, distance)
