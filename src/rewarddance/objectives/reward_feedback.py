r"""Climbing a differentiable reward: its loss, and through which denoising steps the gradient flows.

- ReFL: denoise without gradient to a random late step, predict the clean latents from one velocity with gradient
  (`flow.x0_prediction`), decode, judge.
- DRaFT-K: denoise to the end and keep the gradient of the last K steps.
- DRTune: keep steps like DRaFT, but show the network latents without their history (`network_input`). What is left of
  the gradient of \(x_0 = x_K + \sum_k (\sigma_{k+1} - \sigma_k)\,v_\theta(x_k)\) is
  \(\sum_k (\sigma_{k+1} - \sigma_k)\,\partial v_\theta(x_k)/\partial\theta\), without products of Jacobians, which may
  explode.

ReFL's second term, which keeps a generator near its data, is `flow.flow_matching_loss`.

Source:
    ReFL: ImageReward, arXiv:2304.05977, Algorithm 1. DRaFT: arXiv:2309.17400. DRTune: arXiv:2405.00760.
"""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.objectives.preference import in_full_precision

History: TypeAlias = Literal["kept", "cut"]


def refl_loss(
    reward: Float[Tensor, " batch"], ceiling: float | None = None, log_odds: Float[Tensor, " batch"] | None = None
) -> Float[Tensor, " batch"]:
    r"""What reward is still missing.

    $$L = \max(0,\ c - r), \qquad\text{or } -r \text{ without a ceiling}$$

    Args:
        reward: What is climbed, with gradient down to the pixels.
        ceiling: Log-odds that are enough: samples above it teach nothing, so that nobody pushes them further to please
            the reward model. 2 log-odds are a score of 0.88. None asks for ever more.
        log_odds: What the ceiling is compared with, where `reward` is on another scale: the loss is what is missing of
            them, its gradient that of `reward`. None where `reward` is in log-odds itself.

    Returns:
        One loss a sample; not averaged, not scaled.

    Source:
        ImageReward, arXiv:2304.05977, Algorithm 1; the released code has a ceiling of 2 and a factor of 1e-3.
        Differs: the ceiling is in log-odds of a yes/no reward, where thresholds of other rewards mean nothing.
    """
    precise = in_full_precision(reward)
    if ceiling is None:
        return -precise
    judged = precise.detach() if log_odds is None else in_full_precision(log_odds.detach())
    missing = (ceiling - judged) - (precise - precise.detach())
    # A reward that is no number is not above the ceiling: it must not pass for one that teaches nothing.
    return torch.where(judged >= ceiling, torch.zeros_like(missing), missing)


def network_input(latents: Float[Tensor, " batch *latent"], history: History) -> Float[Tensor, " batch *latent"]:
    """What the velocity network sees of latents that have a gradient.

    The step itself must start from the latents as they are, whatever the network saw: detaching both would leave only
    the last step's gradient.

    Args:
        latents: Made by earlier steps with gradient.
        history: `kept` for DRaFT and AlignProp, `cut` for DRTune.
    """
    return latents if history == "kept" else latents.detach()
