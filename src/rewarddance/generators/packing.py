"""Latents as a sequence of 2 by 2 patches, the layout in which FLUX and Qwen-Image denoise.

Source:
    `_pack_latents` and `_unpack_latents` of diffusers' FluxPipeline; the same in QwenImagePipeline.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def pack(latents: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch patches values"]:
    """Every 2 by 2 patch as one row, patches in reading order; within a row all of one channel, then the next.

    Args:
        latents: Height and width are even.
    """
    batch, channels, height, width = latents.shape
    blocks = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(
    packed: Float[Tensor, "batch patches values"], height: int, width: int
) -> Float[Tensor, "batch channels height width"]:
    """The inverse of `pack`, for latents of an even height and width."""
    batch, _, values = packed.shape
    blocks = packed.reshape(batch, height // 2, width // 2, values // 4, 2, 2)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(batch, values // 4, height, width)


def patch_positions(rows: int, columns: int, device: torch.device) -> Float[Tensor, "patches 3"]:
    """Where each patch is, as FLUX is told: 0, row, column."""
    grid = torch.zeros(rows, columns, 3, device=device)
    grid[..., 1] = torch.arange(rows, device=device)[:, None]
    grid[..., 2] = torch.arange(columns, device=device)[None, :]
    return grid.reshape(rows * columns, 3)
