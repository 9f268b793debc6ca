"""Mean and spread of a video decoder's latents, by which networks see latents of mean 0 and variance 1."""

from typing import Any

import torch
from torch import Tensor


def latent_statistics(config: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the decoder's latents, channel by channel, each (1, channels, 1, 1, 1).

    Args:
        config: Of the decoder.
        device: Where the latents are.
    """
    mean, std = (
        torch.tensor(values, device=device).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std)
    )
    return mean, std
