r"""Stochastic denoising steps: a Gaussian a step, whose likelihood policy gradients can weigh.

A deterministic sampler has no probability to raise. These steps add noise and correct the drift for it, so that the
latents at every noise level keep the distribution that the ODE gives them. With \(\Delta = \sigma - \sigma'\) and the
score \(s = -\hat\varepsilon/\sigma\) the mean is

$$\mu = x - \Delta\,(v - \tfrac12 g^2 s), \qquad \text{std} = g\sqrt\Delta$$

- `flow`: \(g = a\sqrt{\sigma/(1-\sigma)}\). Usual level 0.7.
- `dance`: \(g = a\) at every noise level. Usual level 0.3.
- `cps` keeps the coefficients of latents and noise instead: \(\mu = (1-\sigma')\hat x_0 +
  \sqrt{\sigma'^2-\text{std}^2}\,\hat\varepsilon\), \(\text{std} = \sigma'\sin(a\pi/2)\). Usual level 0.8.

`flow` and `dance` correct the drift as if a step were short. Where one steps far down, to sigma 0 or near it, more
noise is left than belongs to the level that it steps to, and nothing after it takes that noise away: let the ODE take
such steps (`stochastic_places`). Steps that are stochastic only in a window (MixGRPO, arXiv:2507.21802) are a choice of
steps, not another formula.

Source:
    Flow-GRPO, arXiv:2505.05470 (ODE to SDE); DanceGRPO, arXiv:2505.07818; Flow-CPS, arXiv:2509.05952. The noise
    schedules are those of the code released with them.
    Differs: the log-probability of `cps` is the Gaussian's, where the released code drops its scale.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.choices import require_choice
from rewarddance.core.errors import UsageError
from rewarddance.objectives.flow import NoiseLevels, noise_prediction, over_rows, x0_prediction
from rewarddance.objectives.preference import in_full_precision

SdeSchedule: TypeAlias = Literal["flow", "dance", "cps"]
Reduction: TypeAlias = Literal["mean", "sum"]

MOST_NOISE_LEFT = 1.5
"""Noise after a step, in units of the level that it steps to."""


@dataclass(frozen=True, slots=True)
class SdeNoise:
    """How much noise a stochastic step adds.

    Attributes:
        schedule: How it depends on the noise level.
        level: Its strength, named a above; 0 gives the ODE step. At most 1 for `cps`.
    """

    schedule: SdeSchedule = "flow"
    level: float = 0.7

    def __post_init__(self) -> None:
        require_choice("noise schedule", self.schedule, get_args(SdeSchedule))
        if not 0 <= self.level < math.inf or (self.schedule == "cps" and self.level > 1):
            raise UsageError(f"the level of {self.schedule} noise is {self.level}; give 0 or more, for cps at most 1")


@dataclass(frozen=True, slots=True)
class SdeStep:
    """The Gaussian of the next latents.

    Attributes:
        mean: Carries the gradient of the policy.
        std: One a row, the same for all its latents; never depends on the policy. 0 where the step is no gamble.
    """

    mean: Float[Tensor, " batch *latent"]
    std: Float[Tensor, " batch"]

    def draw(self, noise: Float[Tensor, " batch *latent"]) -> Float[Tensor, " batch *latent"]:
        """Next latents for standard normal noise."""
        return self.mean + over_rows(self.std, self.mean) * noise


def sde_step(
    latents: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: NoiseLevels,
    next_sigma: NoiseLevels,
    noise: SdeNoise,
    sigma_max: float,
) -> SdeStep:
    """Where the next latents may lie.

    Args:
        latents: At `sigma`.
        velocity: There.
        sigma: Noise level of the latents, above 0.
        next_sigma: Lower noise level after the step.
        noise: Kind and strength of the noise.
        sigma_max: The largest noise level below 1 on the sampler's path, which stands in for 1 where `flow` would
            divide by 0.
    """
    precise = in_full_precision(latents)
    level, lower = (over_rows(one, precise) for one in (sigma, next_sigma))
    std = transition_std(sigma, next_sigma, noise, sigma_max)
    spread = over_rows(std, precise)
    noise_pointed_to = noise_prediction(precise, velocity, sigma)
    if noise.schedule == "cps":
        kept = (lower.square() - spread.square()).clamp(min=0.0).sqrt()
        mean = (1.0 - lower) * x0_prediction(precise, velocity, sigma) + kept * noise_pointed_to
    else:
        # Minus half of std squared times noise over sigma is half of g squared times the score over the step.
        mean = precise + (lower - level) * velocity - 0.5 * spread.square() * noise_pointed_to / level
    return SdeStep(mean, torch.broadcast_to(std.to(precise), (len(latents),)))


def transition_std(sigma: NoiseLevels, next_sigma: NoiseLevels, noise: SdeNoise, sigma_max: float) -> Tensor:
    """Standard deviation of the noise that one step adds, step size included.

    Args:
        sigma: Noise level before the step.
        next_sigma: Lower noise level after it.
        noise: Kind and strength.
        sigma_max: Stands in for a `sigma` of 1 where `flow` would divide by 0.
    """
    level, lower = (in_full_precision(torch.as_tensor(one)) for one in (sigma, next_sigma))
    match noise.schedule:
        case "flow":
            distance = 1.0 - torch.where(level >= 1.0, sigma_max, level)
            return noise.level * (level / distance * (level - lower)).sqrt()
        case "dance":
            return noise.level * (level - lower).sqrt()
        case "cps":
            return lower * math.sin(0.5 * math.pi * noise.level)


def stochastic_places(sigmas: Float[Tensor, " steps_and_end"], noise: SdeNoise) -> range:
    r"""Steps of a path that may be stochastic: all before the first that leaves too much noise behind.

    With a velocity that is right, a step leaves noise of size
    \(\sqrt{(\sigma' - \text{std}^2/2\sigma)^2 + \text{std}^2}\); at most `MOST_NOISE_LEFT` times
    \(\sigma'\) is allowed.

    Args:
        sigmas: Of the whole path, falling, the last one 0.
        noise: Kind and strength.

    Returns:
        Never the step to 0. The first step always, unless it is that one, or very short paths would have none. `cps`
        leaves what it should everywhere.
    """
    below_one = float(sigmas[sigmas < 1.0].max())
    for place, (sigma, lower) in enumerate(pairwise(sigmas)):
        std = transition_std(sigma, lower, noise, below_one)
        kept = lower if noise.schedule == "cps" else torch.hypot(lower - 0.5 * std.square() / sigma, std)
        if lower == 0 or (place > 0 and float(kept) > MOST_NOISE_LEFT * float(lower)):
            return range(place)
    return range(len(sigmas) - 1)


def log_prob(
    sample: Float[Tensor, " batch *latent"], step: SdeStep, reduce: Reduction = "mean"
) -> Float[Tensor, " batch"]:
    r"""Log-likelihood of the latents that a step drew.

    $$\log p = -\frac{(x' - \mu)^2}{2\,\text{std}^2} - \log\text{std} - \tfrac12\log 2\pi$$

    Args:
        sample: What was drawn; taken as data, so no gradient reaches it.
        step: The Gaussian under the policy in question.
        reduce: `sum` over latents is the likelihood. `mean` divides it by their number, as released policy-gradient
            code does: ratios then stay within 1e-3 or less of 1, and clip ranges must be as small.

    Returns:
        Not finite where the step's std is 0: such a step has no density and takes no part in a policy gradient.
    """
    spread = over_rows(step.std, step.mean)
    distance = (sample.detach() - step.mean) / spread
    each = -0.5 * distance.square() - spread.log() - 0.5 * math.log(2.0 * math.pi)
    return reduced(each, reduce)


def reduced(each: Float[Tensor, " batch *latent"], reduce: Reduction) -> Float[Tensor, " batch"]:
    """Sum or mean over the latents of each row.

    Raises:
        UsageError: Neither was asked for.
    """
    require_choice("reduction", reduce, get_args(Reduction))
    return each.flatten(1).sum(1) if reduce == "sum" else each.flatten(1).mean(1)
