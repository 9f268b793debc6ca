"""Flow-GRPO: policy gradients on stochastic denoising steps, for rewards of any kind.

Source:
    Flow-GRPO, arXiv:2505.05470; a window of stochastic steps as in MixGRPO, arXiv:2507.21802; one initial noise for a
    group as in DanceGRPO, arXiv:2505.07818.
    Differs: the divergence from the reference policy is exact, step size included; advantages have a floor under their
    spread; a step that would leave noise in the pictures that are judged is never stochastic (`stochastic_places`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.config.alignment_methods import FlowGrpoConfig
from rewarddance.core.seeding import derive_seed, numpy_rng
from rewarddance.generators.protocol import Conditions
from rewarddance.generators.sampling import Trajectory, largest_below_one, sample_sde
from rewarddance.objectives.group_relative import clipped_ratio_loss, group_advantages
from rewarddance.objectives.kl import path_kl, step_kl
from rewarddance.objectives.sde import SdeNoise, SdeStep, log_prob, sde_step, stochastic_places
from rewarddance.training.pause_points import reached
from rewarddance.training.prompt_draws import Draw
from rewarddance.training.regulariser import velocity_pull
from rewarddance.training.reward_signal import RewardValues
from rewarddance.training.workbench import LossPart, Workbench


@dataclass(frozen=True, slots=True)
class _Rollout:
    """One batch of pictures and how they came about; it is replayed as it is, or the ratio would not begin at 1."""

    draw: Draw
    conditions: Conditions
    trajectory: Trajectory
    values: RewardValues


class FlowGrpo:
    """Samples stochastically, compares within groups, raises the likelihood of what was better."""

    def __init__(self, bench: Workbench, settings: FlowGrpoConfig) -> None:
        self._bench = bench
        self._settings = settings
        self._noise = SdeNoise(settings.noise, settings.noise_level)
        self.updates_per_rollout = settings.updates_per_rollout

    def updates(self, optimizer_step: int) -> Iterator[Iterable[LossPart]]:
        """See `Method.updates`."""
        settings, batches = self._settings, self._bench.config.gradient_accumulation
        count = batches * settings.updates_per_rollout
        draws = self._bench.draws.draws(optimizer_step * batches, count, settings.group_size)
        rollouts = [self._rollout(optimizer_step, draw) for draw in draws]
        combined = self._bench.reward.combined([one.values for one in rollouts]).reshape(-1, settings.group_size)
        advantages = group_advantages(combined, settings.spread_floor, settings.spread, settings.advantage_clip)
        parts = torch.split(advantages.flatten(), self._bench.config.batch_size)
        judged = list(zip(rollouts, parts, strict=True))
        reached("rollout:judged")
        for first in range(0, count, batches):
            yield (
                part
                for rollout, advantage in judged[first : first + batches]
                for part in self._parts(rollout, advantage)
            )

    def _rollout(self, optimizer_step: int, draw: Draw) -> _Rollout:
        bench = self._bench
        conditions = bench.conditions(draw.prompts)
        with bench.policy.precision():
            trajectory = sample_sde(
                bench.policy.generator,
                conditions,
                bench.noise(draw.group_seeds if self._settings.initial_noise == "group" else draw.seeds),
                bench.sigmas,
                bench.guidance,
                self._noise,
                [derive_seed(seed, "steps") for seed in draw.seeds],
                self._window(optimizer_step),
            )
        values = bench.judge(trajectory.final, draw.prompts, optimizer_step)
        return _Rollout(draw, conditions, trajectory, values)

    def _window(self, optimizer_step: int) -> range:
        """Which steps are stochastic; none that leaves noise in the picture."""
        possible = len(stochastic_places(self._bench.sigmas, self._noise))
        length = min(self._settings.stochastic_steps or possible, possible)
        rng = numpy_rng(self._bench.config.seed, "stochastic steps", optimizer_step)
        start = int(rng.integers(possible - length + 1))
        return range(start, start + length)

    def _parts(self, rollout: _Rollout, advantages: Float[Tensor, " batch"]) -> Iterator[LossPart]:
        """Losses of one batch; the last one tells the divergence of the whole path, where it is measured."""
        nats: list[Tensor] = []
        for step in rollout.trajectory.stochastic_steps:
            yield self._part(rollout, step, advantages, nats)

    def _part(self, rollout: _Rollout, step: int, advantages: Float[Tensor, " batch"], nats: list[Tensor]) -> LossPart:
        """Loss of one denoising step of one batch; adds the step's divergence to `nats` where it is measured."""
        bench, trajectory = self._bench, rollout.trajectory
        latents, sigma = trajectory.latents[step], trajectory.sigmas[step]
        velocity = bench.policy.velocity(latents, sigma, rollout.conditions, bench.guidance)
        transition = self._transition(trajectory, step, velocity)
        ratio = clipped_ratio_loss(
            log_prob(trajectory.latents[step + 1], transition),
            trajectory.log_probs[step],
            advantages,
            self._settings.clip_range,
        )
        pull = velocity_pull(bench, velocity, latents, sigma, rollout.conditions)
        loss, distance = ratio.loss + pull.loss, pull.distance
        if self._settings.kl_weight:
            home = bench.policy.reference_velocity(latents, sigma, rollout.conditions, bench.guidance)
            kl = step_kl(transition.mean, self._transition(trajectory, step, home).mean, transition.std, "mean")
            loss = loss + self._settings.kl_weight * bench.pull * kl.mean()
            # Of the whole path, since all of its steps are averaged.
            distance = kl.detach() * len(trajectory.stochastic_steps)
            nats.append(kl.detach() * latents[0].numel())
        share = bench.config.gradient_accumulation * len(trajectory.stochastic_steps)
        figures = {
            "ratio": ratio.mean_ratio,
            "largest_ratio_deviation": ratio.largest_deviation,
            "clip_share": ratio.clip_share,
            "advantage_size": float(advantages.abs().mean()),
        }
        if len(nats) == len(trajectory.stochastic_steps):
            figures["path_kl_nats"] = float(path_kl(torch.stack(nats)).mean())
        return LossPart(loss / share, rollout.draw.prompts, rollout.values.proxy, distance, figures)

    def _transition(self, trajectory: Trajectory, step: int, velocity: Float[Tensor, " batch *latent"]) -> SdeStep:
        sigmas = trajectory.sigmas
        return sde_step(
            trajectory.latents[step],
            velocity,
            sigmas[step],
            sigmas[step + 1],
            self._noise,
            largest_below_one(sigmas),
        )
