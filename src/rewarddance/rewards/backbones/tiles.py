"""Families that cut an image into square tiles of the vision tower's size: what they share."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rewarddance.rewards.backbones.protocol import Picture


def cut_tiles(pixels: Float[Tensor, "3 height width"], side: int) -> Float[Tensor, "tiles 3 side side"]:
    """Square tiles in reading order; both sides of the image are multiples of `side`."""
    channels, height, width = pixels.shape
    rows, columns = height // side, width // side
    tiles = pixels.reshape(channels, rows, side, columns, side).permute(1, 3, 0, 2, 4)
    return tiles.reshape(rows * columns, channels, side, side)


def tile_index(pictures: Sequence[Picture], order: Sequence[int]) -> Int[Tensor, " tiles"]:
    """Row of each shown tile among the tiles of the distinct images.

    Args:
        pictures: The distinct images.
        order: For each shown image, its number in `pictures`.
    """
    counts = [len(picture.pixel_values) for picture in pictures]
    starts = [sum(counts[:number]) for number in range(len(counts))]
    rows = [starts[number] + tile for number in order for tile in range(counts[number])]
    return torch.tensor(rows, dtype=torch.long)
