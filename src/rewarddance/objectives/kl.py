r"""How far a policy has moved from its reference policy.

Along a stochastic path both policies draw every step from Gaussians with the same std, so that the divergence of
whole paths is a sum over steps of \(\lVert\mu-\mu_\text{ref}\rVert^2/(2\,\text{std}^2)\), in nats, exact, where the
expectation is over paths of the policy. A deterministic path has no such divergence: `velocity_distance` measures
how far the velocities are apart.

Source:
    Flow-GRPO, arXiv:2505.05470 (KL loss); the exact divergence of two Gaussians with the same std.
    Differs: std holds the step size; released code divides by a std without it, which gives weights that depend on the
    number of steps, and a KL weight that carries over to nothing else.
"""

from jaxtyping import Float
from torch import Tensor

from rewarddance.objectives.flow import NoiseLevels, over_rows
from rewarddance.objectives.preference import in_full_precision
from rewarddance.objectives.sde import Reduction, SdeNoise, reduced, transition_std


def step_kl(
    mean: Float[Tensor, " batch *latent"],
    reference_mean: Float[Tensor, " batch *latent"],
    std: Float[Tensor, " batch"],
    reduce: Reduction = "sum",
) -> Float[Tensor, " batch"]:
    r"""Divergence of one stochastic step from the reference policy's.

    $$\text{KL} = \frac{\lVert\mu-\mu_\text{ref}\rVert^2}{2\,\text{std}^2}$$

    Args:
        mean: Of the policy's step.
        reference_mean: Of the reference policy's step from the same latents; taken as data, without gradient.
        std: Of both, step size included; above 0.
        reduce: `sum` is the divergence in nats; `mean` is per latent, to stand beside a `mean` log-probability.

    Returns:
        One a row; 0 where the policies agree.
    """
    difference = in_full_precision(mean) - reference_mean.detach()
    return reduced(0.5 * (difference / over_rows(std, difference)).square(), reduce)


def velocity_kl(
    velocity: Float[Tensor, " batch *latent"],
    reference_velocity: Float[Tensor, " batch *latent"],
    sigma: NoiseLevels,
    next_sigma: NoiseLevels,
    noise: SdeNoise,
    sigma_max: float,
    reduce: Reduction = "sum",
) -> Float[Tensor, " batch"]:
    r"""The divergence of one stochastic step in closed form, from velocities at the same latents.

    The mean of a step is linear in the velocity, so that

    $$\text{KL} = \frac{(\partial\mu/\partial v)^2}{2\,\text{std}^2}\lVert v - v_\text{ref}\rVert^2$$

    which for the schedules `flow` and `dance` is
    \(\frac\Delta2\big(\frac{g(1-\sigma)}{2\sigma}+\frac1g\big)^2\lVert v-v_\text{ref}\rVert^2\).

    Args:
        velocity: Of the policy.
        reference_velocity: Of the reference policy; taken as data, without gradient.
        sigma: Noise level of the latents, above 0.
        next_sigma: Lower noise level after the step.
        noise: Kind and strength of the noise; its level above 0.
        sigma_max: As in `sde.sde_step`.
        reduce: `sum` is the divergence in nats; `mean` is per latent.

    Returns:
        What `step_kl` of both steps gives.
    """
    difference = in_full_precision(velocity) - reference_velocity.detach()
    level, lower = (over_rows(one, difference) for one in (sigma, next_sigma))
    std = over_rows(transition_std(sigma, next_sigma, noise, sigma_max), difference)
    if noise.schedule == "cps":
        kept = (lower.square() - std.square()).clamp(min=0.0).sqrt()
        slope = kept * (1.0 - level) - (1.0 - lower) * level
    else:
        slope = lower - level - 0.5 * std.square() * (1.0 - level) / level
    return reduced(0.5 * (slope / std * difference).square(), reduce)


def path_kl(step_kls: Float[Tensor, "steps batch"]) -> Float[Tensor, " batch"]:
    """Divergence of whole stochastic paths: that of their steps, added up.

    Args:
        step_kls: Each at the latents that the policy itself came by; deterministic steps left out.

    Returns:
        In nats if the steps were summed over latents; an estimate from one path a row.
    """
    return step_kls.sum(0)


def velocity_distance(
    velocity: Float[Tensor, " batch *latent"], reference_velocity: Float[Tensor, " batch *latent"]
) -> Float[Tensor, " batch"]:
    r"""How far two velocities are apart, whatever the sampler.

    $$d = \tfrac1D\lVert v - v_\text{ref}\rVert^2$$

    Args:
        velocity: Of the policy.
        reference_velocity: Of the reference policy at the same latents; taken as data, without gradient.

    Returns:
        Mean square over latents, one a row; a velocity's own mean square is near 1 plus that of the latents.

    Source:
        The regulariser of DiffusionNFT, arXiv:2509.16117, and of Flow-GRPO's later code.
    """
    return (in_full_precision(velocity) - reference_velocity.detach()).square().flatten(1).mean(1)
