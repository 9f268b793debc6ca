r"""DiffusionNFT: a policy gradient that needs no likelihood, only samples, their rewards and fresh noise.

Noise is mixed into a sample that the old policy made, and the network predicts its velocity, as in pre-training. Good
samples are learned by the policy, bad ones by its mirror image on the other side of the old policy, so that the policy
moves away from them. Any sampler may have made the samples.

Source:
    DiffusionNFT, arXiv:2509.16117; weights and schedules from the code released with it.
    Differs: the loss is not multiplied by the largest advantage, which is a factor of the learning rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

from rewarddance.objectives.flow import NoiseLevels, add_noise, require_one_each, x0_prediction
from rewarddance.objectives.preference import in_full_precision

OldPolicySchedule: TypeAlias = Literal["none", "rising", "late"]

_LEAST_WEIGHT = 1e-5


def optimality(advantages: Float[Tensor, " batch"], largest_advantage: float = 5.0) -> Float[Tensor, " batch"]:
    r"""Probability that a sample is a good one.

    $$p = \tfrac12 + \tfrac12\,\text{clip}(A/A_\text{max}, -1, 1)$$

    Args:
        advantages: From `group_relative.group_advantages`.
        largest_advantage: Advantage of a sample that is certainly good; above 0.

    Returns:
        In [0, 1]; one half for an average sample.
    """
    return 0.5 + 0.5 * (in_full_precision(advantages) / largest_advantage).clamp(-1.0, 1.0)


def forward_process_loss(
    velocity: Float[Tensor, " batch *latent"],
    old_velocity: Float[Tensor, " batch *latent"],
    x0: Float[Tensor, " batch *latent"],
    noise: Float[Tensor, " batch *latent"],
    sigma: NoiseLevels,
    good: Float[Tensor, " batch"],
    beta: float = 1.0,
) -> Float[Tensor, " batch"]:
    r"""Learn good samples, and bad ones from the other side.

    With \(v^\pm = v_\text{old} \pm \beta\,(v - v_\text{old})\) and their predictions \(\hat x_0^\pm\),

    $$L = \frac1\beta\Big(p\,\frac{\lVert\hat x_0^+ - x_0\rVert^2}{D\,w^+}
    + (1-p)\,\frac{\lVert\hat x_0^- - x_0\rVert^2}{D\,w^-}\Big),
    \quad w^\pm = \tfrac1D\lVert\hat x_0^\pm - x_0\rVert_1$$

    where the weights carry no gradient: they make all noise levels count about the same.

    Args:
        velocity: Of the policy at `flow.add_noise(x0, noise, sigma)`.
        old_velocity: Of the policy that made the samples, there; data, without gradient.
        x0: Samples as clean latents.
        noise: What was mixed in.
        sigma: How much of it, above 0.
        good: Probability that each sample is good, from `optimality`.
        beta: How far the policy is taken for a step from the old one, above 0; small values move it further.

    Returns:
        One a sample. While the policy is the old one, its value does not depend on `good`; its gradient does.

    Raises:
        UsageError: `good` is not one number a sample.
    """
    clean, old = in_full_precision(x0), in_full_precision(old_velocity.detach())
    latents = add_noise(clean, noise, sigma)
    moved = beta * (in_full_precision(velocity) - old)
    positive = _weighted_square(x0_prediction(latents, old + moved, sigma) - clean)
    negative = _weighted_square(x0_prediction(latents, old - moved, sigma) - clean)
    require_one_each(positive, good=good)
    return (good * positive + (1.0 - good) * negative) / beta


def _weighted_square(errors: Float[Tensor, " batch *latent"]) -> Float[Tensor, " batch"]:
    rows = errors.flatten(1)
    return rows.square().mean(1) / rows.detach().abs().mean(1).clamp(min=_LEAST_WEIGHT)


@dataclass(frozen=True, slots=True)
class _Ramp:
    start: int
    rate: float
    ceiling: float


_RAMPS: Mapping[OldPolicySchedule, _Ramp] = MappingProxyType(
    {"none": _Ramp(0, 0.0, 0.0), "rising": _Ramp(0, 0.001, 0.5), "late": _Ramp(75, 0.0075, 0.999)}
)


def old_policy_share(optimizer_step: int, schedule: OldPolicySchedule) -> float:
    r"""Share d of the old policy that stays, in \(\theta_\text{old} \leftarrow d\,\theta_\text{old} + (1-d)\,\theta\).

    Args:
        optimizer_step: Updates so far.
        schedule: `none` makes the samples with the newest policy; `rising` goes from 0 to 0.5 in 500 steps; `late`
            from 0 at step 75 to 0.999 at step 209.
    """
    ramp = _RAMPS[schedule]
    return min(max(0.0, (optimizer_step - ramp.start) * ramp.rate), ramp.ceiling)
