"""Classifier-free guidance: away from the velocity of the empty prompt, past the velocity of the prompt.

Source:
    arXiv:2207.12598, Eq. 6 with weight `guidance - 1`.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def guided(
    positive: Float[Tensor, "batch ..."], negative: Float[Tensor, "batch ..."], guidance: float
) -> Float[Tensor, "batch ..."]:
    """Extrapolated velocity; guidance 1 gives `positive`, 0 gives `negative`."""
    return negative + guidance * (positive - negative)


def guided_at_norm(
    positive: Float[Tensor, "batch patches values"], negative: Float[Tensor, "batch patches values"], guidance: float
) -> Float[Tensor, "batch patches values"]:
    """Extrapolated velocity with the length of `positive` in every patch; the rescaling has a gradient too.

    Source:
        diffusers' QwenImagePipeline.
    """
    both = guided(positive, negative, guidance)
    length, wanted = (torch.linalg.vector_norm(one, dim=-1, keepdim=True) for one in (both, positive))
    rescaled: Tensor = both * (wanted / length)
    return rescaled
