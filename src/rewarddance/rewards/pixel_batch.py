"""What may be given as a batch of pictures."""

import torch
from torch import Tensor

from rewarddance.core.errors import UsageError
from rewarddance.core.pixel_range import DARKEST, range_flaw

_CHANNELS = 3
_IMAGE_AXES = 4


def refuse_other_pixels(pixels: Tensor, largest_axes: int = _IMAGE_AXES) -> None:
    """Stop at what is no batch of RGB pictures in [0, 1]; pixels that are not finite pass.

    Args:
        pixels: To be (batch, 3, height, width); further axes may follow the batch.
        largest_axes: Most axes in all.

    Raises:
        UsageError: It is no tensor, not of floats, has no three channels, or is in another range.
    """
    wanted = "give floats (batch, 3, height, width) in [0, 1]"
    if not isinstance(pixels, Tensor):
        raise UsageError(f"pixels of type {type(pixels).__name__} are no tensor; {wanted}")
    if not pixels.is_floating_point():
        raise UsageError(f"pixels of {pixels.dtype} may mean anything; {wanted}, such as bytes divided by 255")
    if not _IMAGE_AXES <= pixels.ndim <= largest_axes or pixels.shape[-3] != _CHANNELS:
        last = "; channels stand before height and width" if pixels.shape[-1:] == (_CHANNELS,) else ""
        raise UsageError(f"pixels of shape {tuple(pixels.shape)} are no RGB pictures{last}; {wanted}")
    if not pixels.numel():
        return
    seen = pixels.detach()
    share_below, highest = torch.stack([(seen < DARKEST).float().mean(), seen.amax().float()]).tolist()
    if (flaw := range_flaw(share_below, highest)) is not None:
        raise UsageError(flaw)
