"""Rotary positions of the Qwen-VL families in three axes: frame, row, column.

Text advances all three together. An image's tokens share the frame and take their row and column, counted from where
the text stopped; the text goes on after the image's longer side.

Source: Qwen2-VL, arXiv:2409.12191, section 2.1 (M-RoPE).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def multimodal_positions(
    token_ids: Sequence[int], grids: Sequence[tuple[int, ...]], image_token_id: int, merge: int
) -> Int[Tensor, "3 length"]:
    """Positions of one question without padding.

    Args:
        token_ids: The whole question.
        grids: `(frames, rows, columns)` of patches of each image in order.
        image_token_id: Marks the tokens of images.
        merge: Patches merged into one token along each axis.
    """
    pieces: list[Tensor] = []
    start = 0
    place = 0
    for frames, patch_rows, patch_columns in grids:
        rows, columns = patch_rows // merge, patch_columns // merge
        first = token_ids.index(image_token_id, place)
        pieces.append(_text(first - place, start))
        start += first - place
        pieces.append(torch.cartesian_prod(torch.arange(frames), torch.arange(rows), torch.arange(columns)).T + start)
        start += max(rows, columns)
        place = first + frames * rows * columns
    pieces.append(_text(len(token_ids) - place, start))
    return torch.cat(pieces, dim=1)


def _text(length: int, start: int) -> Int[Tensor, "3 length"]:
    return (torch.arange(length) + start).expand(3, -1)
