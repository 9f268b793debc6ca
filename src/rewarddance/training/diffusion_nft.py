"""DiffusionNFT: learn good pictures and unlearn bad ones on the forward process, for rewards of any kind.

Source:
    DiffusionNFT, arXiv:2509.16117, Algorithm 1.
    Differs: noise levels are drawn from those of the sampler, each for a whole batch; guidance stays what it is when
    sampling, where the paper trains without it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.config.alignment_methods import DiffusionNftConfig
from rewarddance.core.seeding import derive_seed, numpy_rng
from rewarddance.generators.protocol import Conditions
from rewarddance.objectives.flow import add_noise
from rewarddance.objectives.forward_process import forward_process_loss, old_policy_share, optimality
from rewarddance.objectives.group_relative import group_advantages
from rewarddance.training.pause_points import reached
from rewarddance.training.prompt_draws import Draw
from rewarddance.training.regulariser import velocity_pull
from rewarddance.training.reward_signal import RewardValues
from rewarddance.training.workbench import LossPart, Workbench

_OLD = "old"


@dataclass(frozen=True, slots=True)
class _Rollout:
    """One batch of pictures of the old policy, as clean latents."""

    draw: Draw
    conditions: Conditions
    clean: Float[Tensor, " batch *latent"]
    values: RewardValues


class DiffusionNft:
    """Samples with a slow copy of the policy by any sampler, then trains as in pre-training, with a sign."""

    def __init__(self, bench: Workbench, settings: DiffusionNftConfig) -> None:
        self._bench = bench
        self._settings = settings
        self.updates_per_rollout = settings.updates_per_rollout
        bench.policy.average(_OLD)

    def updates(self, optimizer_step: int) -> Iterator[Iterable[LossPart]]:
        """See `Method.updates`."""
        settings, batches = self._settings, self._bench.config.gradient_accumulation
        count = batches * settings.updates_per_rollout
        draws = self._bench.draws.draws(optimizer_step * batches, count, settings.group_size)
        rollouts = [self._rollout(optimizer_step, draw) for draw in draws]
        combined = self._bench.reward.combined([one.values for one in rollouts]).reshape(-1, settings.group_size)
        # Cut off by `optimality`, whose largest advantage is the same.
        advantages = group_advantages(combined, settings.spread_floor, settings.spread, clip=None)
        good = optimality(advantages.flatten(), settings.advantage_clip)
        judged = list(zip(rollouts, torch.split(good, self._bench.config.batch_size), strict=True))
        reached("rollout:judged")
        for update in range(settings.updates_per_rollout):
            yield (
                self._part(rollout, share, optimizer_step + update, number)
                for rollout, share in judged[update * batches : (update + 1) * batches]
                for number in range(settings.noise_levels)
            )
        made = optimizer_step + settings.updates_per_rollout
        self._bench.policy.update_average(_OLD, old_policy_share(made, settings.old_policy))

    def _rollout(self, optimizer_step: int, draw: Draw) -> _Rollout:
        bench = self._bench
        conditions = bench.conditions(draw.prompts)
        with bench.policy.using(_OLD):
            clean = bench.denoised(bench.noise(draw.seeds), conditions)
        values = bench.judge(clean, draw.prompts, optimizer_step)
        return _Rollout(draw, conditions, clean, values)

    def _part(self, rollout: _Rollout, good: Float[Tensor, " batch"], optimizer_step: int, number: int) -> LossPart:
        """Loss of one batch at one noise level."""
        bench, settings = self._bench, self._settings
        purpose = ("noise level", optimizer_step, rollout.draw.seeds[0], number)
        sigmas = bench.sigmas[:-1]
        sigma = sigmas[int(numpy_rng(bench.config.seed, *purpose).integers(len(sigmas)))]
        rng = torch.Generator().manual_seed(derive_seed(bench.config.seed, *purpose))
        noise = torch.randn(rollout.clean.shape, generator=rng).to(rollout.clean)
        latents = add_noise(rollout.clean, noise, sigma)
        with torch.no_grad(), bench.policy.using(_OLD):
            old = bench.policy.velocity(latents, sigma, rollout.conditions, bench.guidance)
        velocity = bench.policy.velocity(latents, sigma, rollout.conditions, bench.guidance)
        pull = velocity_pull(bench, velocity, latents, sigma, rollout.conditions)
        losses = forward_process_loss(velocity, old, rollout.clean, noise, sigma, good, settings.beta)
        share = bench.config.gradient_accumulation * settings.noise_levels
        figures = {
            "positive_share": float(good.mean()),
            "old_distance": float((velocity.detach() - old).square().mean()),
        }
        return LossPart(
            (losses.mean() + pull.loss) / share, rollout.draw.prompts, rollout.values.proxy, pull.distance, figures
        )
