"""Vision attention of the Qwen-VL families: windows of one length at once, instead of one by one.

All patches of all images stand in one row, and a patch attends within its window: its image, or (Qwen2.5-VL) a square
of it. Transformers cuts the row in a Python loop in every layer, unless the attention function is a flash kernel, which
takes the row whole with the windows' bounds; "flash" in the name is how it knows. Ours batches windows of equal length.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION_NAME = "rewarddance_flash_windows"


def attend_in_windows(
    module: Any,
    query: Float[Tensor, "1 heads patches width"],
    key: Float[Tensor, "1 heads patches width"],
    value: Float[Tensor, "1 heads patches width"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Int[Tensor, " bounds"] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention function of a vision block; the output has patches before heads."""
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    bounds = cu_seq_lens_q.tolist()
    starts: dict[int, list[int]] = {}
    for start, stop in pairwise(bounds):
        starts.setdefault(stop - start, []).append(start)
    starts.pop(0, None)  # padding of the bounds
    if len(starts) == 1:
        length = next(iter(starts))
        return _attend(query, key, value, length, scaling, dropout)[None], None
    places = [
        torch.cat([torch.arange(start, start + length) for start in found]).to(query.device)
        for length, found in starts.items()
    ]
    made = [
        _attend(query[:, :, own], key[:, :, own], value[:, :, own], length, scaling, dropout)
        for length, own in zip(starts, places, strict=True)
    ]
    return torch.cat(made)[torch.cat(places).argsort()][None], None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, length: int, scaling: float | None, dropout: float
) -> Float[Tensor, "patches heads width"]:
    heads, width = query.shape[1], query.shape[3]
    own, others, carried = (one[0].view(heads, -1, length, width).transpose(0, 1) for one in (query, key, value))
    found = functional.scaled_dot_product_attention(own, others, carried, dropout_p=dropout, scale=scaling)
    return found.transpose(1, 2).reshape(-1, heads, width)


def install(vision_model: Any) -> None:
    """Let a vision tower of transformers attend in windows of equal length at once."""
    AttentionInterface.register(ATTENTION_NAME, attend_in_windows)
    for module in vision_model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == "sdpa":
            config._attn_implementation_internal = ATTENTION_NAME
