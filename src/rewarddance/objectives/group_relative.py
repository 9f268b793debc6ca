r"""Policy gradients from groups: samples of one prompt are judged against each other.

Source:
    GRPO, arXiv:2402.03300, Eq. 3, for generators as in Flow-GRPO, arXiv:2505.05470. Ratio correction:
    GRPO-Guard, arXiv:2510.22319, Eq. 8.
    Differs: spread has a floor in place of a small addition; see `group_advantages`.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.errors import UsageError
from rewarddance.objectives.flow import over_rows, require_one_each
from rewarddance.objectives.preference import in_full_precision

Spread: TypeAlias = Literal["group", "global"]

_AXES = 2


def group_advantages(
    rewards: Float[Tensor, "groups members"], floor: float, spread: Spread = "group", clip: float | None = 5.0
) -> Float[Tensor, "groups members"]:
    r"""How much better each sample is than its group.

    $$A_i = \frac{r_i - \bar r_\text{group}}{\max(\text{std}, f)}$$

    Args:
        rewards: One group a prompt.
        floor: Least spread that counts as a difference, in units of the reward; above 0. Below it advantages shrink
            with the spread, so that groups whose samples are equally good teach little.
        spread: Standard deviation of each `group`, which makes all prompts count the same; or `global`, of all
            rewards at once, differences between prompts included, as released code has it.
        clip: Largest advantage in either direction; None for no limit.

    Returns:
        Mean 0 in each group, unless clipped. 0 in a group of one, which has nothing to be judged against.

    Raises:
        UsageError: The floor is not above 0, rewards have no groups, or there is no such spread.

    Source:
        arXiv:2505.05470; its released code clips to 5.
        Differs: a floor, where peers add 1e-4: with scores near 1, spread vanishes and theirs makes noise as loud as
        a difference.
    """
    if spread not in get_args(Spread) or not floor > 0 or rewards.ndim != _AXES:
        raise UsageError(
            "advantages want rewards (groups, members), a floor above 0 and a spread of group or global; "
            f"got shape {tuple(rewards.shape)}, floor {floor}, spread {spread!r}"
        )
    precise = in_full_precision(rewards)
    centred = precise - precise.mean(1, keepdim=True)
    std = precise.std(1, correction=0, keepdim=True) if spread == "group" else precise.std(correction=0)
    advantages = centred / std.clamp(min=floor)
    return advantages if clip is None else advantages.clamp(-clip, clip)


@dataclass(frozen=True, slots=True)
class RatioLoss:
    """A policy-gradient loss and what to watch of it.

    Attributes:
        loss: Mean over samples, with gradient.
        mean_ratio: Of new to old likelihood; drifts from 1 as the policy leaves the one that drew the samples.
        largest_deviation: Of a ratio from 1; 0 before the first update, or rollout and replay do not agree.
        clip_share: Share of samples in [0, 1] that teach nothing, because their ratio has moved past the range in the
            direction of their advantage.
    """

    loss: Float[Tensor, ""]
    mean_ratio: float
    largest_deviation: float
    clip_share: float


def clipped_ratio_loss(
    log_probs: Float[Tensor, " batch"],
    old_log_probs: Float[Tensor, " batch"],
    advantages: Float[Tensor, " batch"],
    clip_range: float,
) -> RatioLoss:
    r"""Raise the likelihood of samples with an advantage, as far as the samples can tell.

    $$L = \text{mean}\,\max(-A\rho,\ -A\,\text{clip}(\rho, 1-\epsilon, 1+\epsilon)), \quad \rho = p/p_\text{old}$$

    Args:
        log_probs: Of stochastic steps under the policy.
        old_log_probs: The same under the policy that drew them; data, without gradient.
        advantages: Of the samples that the steps belong to.
        clip_range: Width on either side of 1. A log-probability that is a mean over latents wants 1e-3 or less; one
            that is a sum, 0.2 as with language models.

    Raises:
        UsageError: There is not one of each for every sample.

    Source:
        PPO, arXiv:1707.06347, Eq. 7.
    """
    require_one_each(log_probs, old_log_probs=old_log_probs)
    return clipped_loss(in_full_precision(log_probs) - old_log_probs.detach(), advantages, clip_range)


def clipped_loss(
    log_ratios: Float[Tensor, " batch"], advantages: Float[Tensor, " batch"], clip_range: float
) -> RatioLoss:
    """The same for log-ratios that are already known, such as `corrected_log_ratio`.

    Args:
        log_ratios: Log of new over old likelihood.
        advantages: Of the samples.
        clip_range: Width on either side of 1.

    Raises:
        UsageError: There is not one advantage a ratio.
    """
    require_one_each(log_ratios, advantages=advantages)
    ratios = log_ratios.exp()
    free = -advantages * ratios
    clipped = -advantages * ratios.clamp(1.0 - clip_range, 1.0 + clip_range)
    observed = ratios.detach()
    return RatioLoss(
        loss=torch.maximum(free, clipped).mean(),
        mean_ratio=observed.mean().item(),
        largest_deviation=(observed - 1.0).abs().max().item(),
        clip_share=(clipped.detach() > free.detach()).float().mean().item(),
    )


def corrected_log_ratio(
    log_ratios: Float[Tensor, " batch"],
    mean: Float[Tensor, " batch *latent"],
    old_mean: Float[Tensor, " batch *latent"],
    std: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    r"""Log-ratio without its downward bias, and as wide at every noise level.

    The mean of a log-ratio under the old policy is minus the step's divergence, so that ratios sit below 1 and the
    clip bites on one side only. Adding that divergence and multiplying by std leaves the mean over latents of
    \(z\,(\mu - \mu_\text{old})\) for the noise z that was drawn.

    Args:
        log_ratios: Differences of log-probabilities that are means over latents.
        mean: Of the policy's step, with gradient.
        old_mean: Of the step under the policy that drew the samples.
        std: Of both, step size included; above 0.

    Source:
        arXiv:2510.22319, Eq. 8. There the loss of each step is divided by its size as well: scale the loss for that.
    """
    difference = in_full_precision(mean) - old_mean.detach()
    bias = 0.5 * (difference / over_rows(std, difference)).square().flatten(1).mean(1)
    return (log_ratios + bias) * std
