"""ReFL: the reward's gradient through one random late denoising step.

Source:
    ImageReward, arXiv:2304.05977, Algorithm 1, which RewardDance, arXiv:2509.08826, section 3.3, aligns with.
    Differs: the reward is in log-odds, whose gradient does not vanish near certainty; the step is drawn for each batch
    from a share of the trajectory instead of steps 30 to 39 of 40; velocities instead of noise are predicted.
"""

import math
from collections.abc import Iterable, Iterator

from rewarddance.config.alignment_methods import ReflConfig
from rewarddance.core.seeding import numpy_rng
from rewarddance.objectives.flow import x0_prediction
from rewarddance.objectives.reward_feedback import refl_loss
from rewarddance.training.prompt_draws import Draw
from rewarddance.training.regulariser import velocity_pull
from rewarddance.training.workbench import LossPart, Workbench


class Refl:
    """One graded step a batch; needs a differentiable reward."""

    updates_per_rollout = 1

    def __init__(self, bench: Workbench, settings: ReflConfig) -> None:
        self._bench = bench
        self._settings = settings

    def updates(self, optimizer_step: int) -> Iterator[Iterable[LossPart]]:
        """See `Method.updates`."""
        batches = self._bench.config.gradient_accumulation
        draws = self._bench.draws.draws(optimizer_step * batches, batches)
        yield (self._part(optimizer_step, number, draw) for number, draw in enumerate(draws))

    def _part(self, optimizer_step: int, number: int, draw: Draw) -> LossPart:
        bench = self._bench
        graded = self._graded_step(optimizer_step, number)
        sigma = bench.sigmas[graded]
        conditions = bench.conditions(draw.prompts)
        latents = bench.denoised(bench.noise(draw.seeds), conditions, stop=graded)
        velocity = bench.policy.velocity(latents, sigma, conditions, bench.guidance)
        pixels = bench.pictures(x0_prediction(latents, velocity, sigma))
        values = bench.climb(pixels, draw.prompts, optimizer_step, number)
        pull = velocity_pull(bench, velocity, latents, sigma, conditions)
        loss = refl_loss(values.combined, self._settings.ceiling, values.proxy).mean() + pull.loss
        figures = {"graded_sigma": float(sigma)}
        return LossPart(loss / bench.config.gradient_accumulation, draw.prompts, values.proxy, pull.distance, figures)

    def _graded_step(self, optimizer_step: int, number: int) -> int:
        steps = len(self._bench.sigmas) - 1
        start, end = self._settings.window
        first = min(math.floor(start * steps), steps - 1)
        last = max(first, math.ceil(end * steps) - 1)
        rng = numpy_rng(self._bench.config.seed, "graded step", optimizer_step, number)
        return int(rng.integers(first, last + 1))
