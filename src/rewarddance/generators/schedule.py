"""The noise levels that a pipeline would step through, without its stateful scheduler.

The scheduler's config says how levels are shifted; with dynamic shifting the shift grows with the number of image
tokens. A level that differs from the pipeline's changes the picture, and in a policy gradient the ratio.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.errors import ModelError, UsageError

_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
_MULTISTEP = "UniPCMultistepScheduler"


def check_scheduler(scheduler: Any, takes_multistep: bool = False) -> None:
    """Refuses a scheduler whose noise levels are not those of a falling flow.

    Args:
        scheduler: Only its class and its config are looked at.
        takes_multistep: Whether it may be UniPCMultistepScheduler with flow sigmas, whose shift knows no size.

    Raises:
        ModelError: Another class of scheduler, noise levels of another kind, or inverted ones.
    """
    name = type(scheduler).__name__
    if takes_multistep and scheduler.config.get("use_dynamic_shifting"):
        raise ModelError("the generator's scheduler shifts by size (use_dynamic_shifting), and its pipeline does not")
    if takes_multistep and name == _MULTISTEP:
        _check_flow_sigmas(scheduler.config)
        return
    if name != _SCHEDULER:
        raise ModelError(f"the generator's scheduler is {name}; only {_SCHEDULER} is supported")
    if scheduler.config.invert_sigmas:
        raise ModelError("the generator's scheduler inverts its noise levels (invert_sigmas), which is not supported")


def _check_flow_sigmas(config: Any) -> None:
    wanted = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "final_sigmas_type": "zero"}
    others = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    for key, value in (wanted | dict.fromkeys(others, False)).items():
        if config.get(key) != value:
            raise ModelError(
                f"the generator's scheduler is {_MULTISTEP} with {key} {config.get(key)}; for a flow it is {value}"
            )


def scheduler_sigmas(
    scheduler: Any, denoising_steps: int, mu: float | None, evenly_spaced: bool
) -> Float[Tensor, " steps_and_end"]:
    """Noise levels of a flow scheduler, which is left as it is.

    Args:
        scheduler: Only its config is read.
        denoising_steps: At least 1; at least 2 where the scheduler has a last level of its own.
        mu: Strength of dynamic shifting; None where the scheduler has none.
        evenly_spaced: Start from levels 1, 1 - 1/n, ..., 1/n before shifting, as pipelines of packed latents do,
            instead of the scheduler's own, which end at the lowest level of training.

    Raises:
        UsageError: Fewer steps than the scheduler can take.
    """
    # Stretching to a last level divides by zero where the first level is the last.
    fewest = 2 if scheduler.config.shift_terminal else 1
    if denoising_steps < fewest:
        raise UsageError(f"this generator needs at least {fewest} denoising steps, not {denoising_steps}")
    fresh = type(scheduler).from_config(scheduler.config)
    levels = np.linspace(1.0, 1.0 / denoising_steps, denoising_steps) if evenly_spaced else None
    fresh.set_timesteps(denoising_steps, sigmas=levels, mu=mu, device="cpu")
    sigmas: Tensor = fresh.sigmas
    return sigmas.to(torch.float32)


def dynamic_shift(config: Any, tokens: int, default_max_shift: float) -> float:
    """The `mu` of a picture: linear in its number of tokens, between two lengths from the scheduler's config.

    Args:
        config: Of the scheduler.
        tokens: Patches that the network sees.
        default_max_shift: Where the config does not say; pipelines disagree.

    Source:
        `calculate_shift` of diffusers' pipelines; arXiv:2403.03206, section 5.3.2.
    """
    short, long = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", default_max_shift)
    slope = (high - low) / (long - short)
    return float(tokens * slope + (low - slope * short))
