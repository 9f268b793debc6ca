"""Flow matching in one place: steps along the velocity, what one velocity predicts, and the loss that trains it.

With noise level sigma in [0, 1], latents are `(1 - sigma) * x0 + sigma * noise` and the velocity is `noise - x0`, so
that one velocity gives the clean latents and the noise as well. Everything is computed in float32 or better:
denoising steps are small differences of large numbers.

Source:
    Rectified flow, arXiv:2209.03003, section 2.1; as in Stable Diffusion 3, arXiv:2403.03206, section 3.1.
"""

from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.errors import UsageError
from rewarddance.objectives.preference import in_full_precision

NoiseLevels: TypeAlias = Float[Tensor, " batch"] | Float[Tensor, ""] | float
"""A number a row, or one for all rows."""


def over_rows(levels: NoiseLevels, latents: Float[Tensor, " batch *latent"]) -> Tensor:
    """Levels with axes of length 1, so that they multiply whole rows of latents; on their device, in their dtype."""
    return torch.as_tensor(levels).to(latents).reshape(-1, *[1] * (latents.ndim - 1))


def require_one_each(rows: Float[Tensor, " batch"], **others: Tensor) -> None:
    """Stop where shapes differ: (batch, 1) beside (batch,) would become a table of all with all.

    Raises:
        UsageError: One of the others has another shape than `rows`.
    """
    for name, values in others.items():
        if values.shape != rows.shape:
            raise UsageError(f"{name} has shape {tuple(values.shape)} where {tuple(rows.shape)} is due, one a sample")


def ode_step(
    latents: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: NoiseLevels,
    next_sigma: NoiseLevels,
) -> Float[Tensor, " batch *latent"]:
    r"""One Euler step along the velocity.

    $$x' = x + (\sigma' - \sigma)\,v$$

    Args:
        latents: At `sigma`.
        velocity: There.
        sigma: Noise level of the latents.
        next_sigma: Noise level after the step; lower when denoising. 0 gives `x0_prediction`.

    Returns:
        Latents at `next_sigma`.
    """
    precise = in_full_precision(latents)
    return precise + (over_rows(next_sigma, precise) - over_rows(sigma, precise)) * velocity


def x0_prediction(
    latents: Float[Tensor, " batch *latent"], velocity: Float[Tensor, " batch *latent"], sigma: NoiseLevels
) -> Float[Tensor, " batch *latent"]:
    r"""Clean latents that one velocity points to.

    $$\hat x_0 = x - \sigma v$$

    Args:
        latents: At `sigma`.
        velocity: There.
        sigma: Noise level of the latents; at 0 they are clean already.

    Source:
        ImageReward, arXiv:2304.05977, Algorithm 1, decodes and judges this prediction; its models predict noise.
    """
    precise = in_full_precision(latents)
    return precise - over_rows(sigma, precise) * velocity


def noise_prediction(
    latents: Float[Tensor, " batch *latent"], velocity: Float[Tensor, " batch *latent"], sigma: NoiseLevels
) -> Float[Tensor, " batch *latent"]:
    r"""Noise that one velocity points away to.

    $$\hat\varepsilon = x + (1 - \sigma) v$$

    Args:
        latents: At `sigma`.
        velocity: There.
        sigma: Noise level of the latents; at 1 they are noise already.
    """
    precise = in_full_precision(latents)
    return precise + (1.0 - over_rows(sigma, precise)) * velocity


def add_noise(
    x0: Float[Tensor, " batch *latent"], noise: Float[Tensor, " batch *latent"], sigma: NoiseLevels
) -> Float[Tensor, " batch *latent"]:
    r"""Latents on the straight line from clean to noise.

    $$x_\sigma = (1 - \sigma) x_0 + \sigma\varepsilon$$

    Args:
        x0: Clean latents.
        noise: Standard normal, of the same shape.
        sigma: 0 gives `x0`, 1 gives `noise`.
    """
    precise = in_full_precision(x0)
    level = over_rows(sigma, precise)
    return (1.0 - level) * precise + level * noise


def renoise(
    latents: Float[Tensor, " batch *latent"],
    noise: Float[Tensor, " batch *latent"],
    sigma: NoiseLevels,
    higher_sigma: NoiseLevels,
) -> Float[Tensor, " batch *latent"]:
    r"""Latents taken back up to a higher noise level by fresh noise: the forward process between two levels.

    $$x_{\sigma'} = a\,x_\sigma + \sqrt{\sigma'^2 - a^2\sigma^2}\;\varepsilon,
      \qquad a = \frac{1 - \sigma'}{1 - \sigma}$$

    What is left is a draw of the latents at the higher level given those at the lower one, so their distribution there
    is the one that `add_noise` gives. `add_noise` on the one-step x0 would not do: x0 is a mean, and too smooth.

    Args:
        latents: At `sigma`.
        noise: Standard normal, of the same shape.
        sigma: Noise level of the latents, below 1; at 0 this is `add_noise`.
        higher_sigma: Noise level to go to, not below `sigma`; 1 gives `noise`.

    Source:
        Search over paths, arXiv:2501.09732, section 3.3: the forward step of each path, there for a
        variance-preserving process.
    """
    precise = in_full_precision(latents)
    level, higher = over_rows(sigma, precise), over_rows(higher_sigma, precise)
    kept = (1.0 - higher) / (1.0 - level)
    added = (higher.square() - (kept * level).square()).clamp(min=0.0).sqrt()
    return kept * precise + added * noise


def flow_matching_loss(
    velocity: Float[Tensor, " batch *latent"],
    x0: Float[Tensor, " batch *latent"],
    noise: Float[Tensor, " batch *latent"],
) -> Float[Tensor, " batch"]:
    r"""How far a velocity is from the line between clean latents and noise; ReFL's pre-training term.

    $$L = \tfrac1D\lVert v - (\varepsilon - x_0)\rVert^2$$

    Args:
        velocity: Predicted at `add_noise(x0, noise, sigma)`.
        x0: Clean latents of the data.
        noise: What was mixed in.

    Returns:
        One loss a row, the mean over its latents; about 1 plus the latents' mean square for a velocity of 0.

    Source:
        arXiv:2403.03206, section 3.1, with equal weights. ImageReward, arXiv:2304.05977, Algorithm 1, alternates it
        with the reward's loss; the code released with that paper leaves it out.
    """
    line = in_full_precision(noise) - in_full_precision(x0)
    return (in_full_precision(velocity) - line).square().flatten(1).mean(1)
