"""Padding on the left, so that the answer position is the last one of every row."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def pad_left(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "rows longest"]:
    """Rows of unequal length as one tensor, filled with `value` from the left."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[value] * (longest - len(row)) + list(row) for row in rows], dtype=torch.long)


def attention_mask_of(rows: Sequence[Sequence[int]]) -> Int[Tensor, "rows longest"]:
    """1 where a left-padded row has a token, 0 where it has padding."""
    return pad_left([[1] * len(row) for row in rows], 0)


def text_positions(attention_mask: Int[Tensor, "rows longest"]) -> Int[Tensor, "rows longest"]:
    """Positions that count tokens only; padding gets 0, so a row's positions do not depend on its neighbours."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)
