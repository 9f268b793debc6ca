"""Attention over passages that are packed into one row without padding; registered with transformers by name.

Every decoder layer of transformers asks a registry for its attention function and hands it whatever keyword arguments
the model was called with. Ours finds a `PassageReading` among them and lets each passage read its own keys and those
of the passages that it sees, in this row or kept from an earlier one. Without one it is transformers' own function.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

ATTENTION_NAME = "rewarddance_passages"


@dataclass(frozen=True, slots=True, eq=False)
class ReadingGroup:
    """Passages of similar size that read at once.

    Attributes:
        queries: Tokens that read, by their place in the packed row; a short passage repeats its last token.
        keys: What each passage reads, by place among kept and packed tokens; a short passage repeats one.
        bias: Added to the attention logits: minus infinity where a token does not read. One matrix if all are alike.
        is_query: Which of `queries` are not repetitions; None when all are not.
    """

    queries: Int[Tensor, "passages queries"]
    keys: Int[Tensor, "passages keys"]
    bias: Float[Tensor, "matrices 1 queries keys"]
    is_query: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class PassageReading:
    """Who reads what in one packed row.

    Attributes:
        groups: Every packed token reads in exactly one of them.
        order: Where each packed token stands in the groups' outputs, one behind the other.
        answers: The groups of the last layer, where only answers read; they come out in this order.
        answer_order: As `order`, for the answers alone.
        past: Keys and values of kept tokens by layer, `(1, heads, tokens, width)` each.
        keep: Stretches of the packed row whose keys and values are wanted.
        kept: These, by stretch and layer; filled in while the row is read.
        is_last_layer: Whether only answers read.
    """

    groups: Sequence[ReadingGroup]
    order: Int[Tensor, " tokens"]
    answers: Sequence[ReadingGroup]
    answer_order: Int[Tensor, " answers"]
    past: Sequence[tuple[Tensor, Tensor]] | None
    keep: Sequence[slice]
    kept: list[list[tuple[Tensor, Tensor]]] = field(default_factory=list)
    is_last_layer: bool = False


def read_passages(
    module: Any,
    query: Float[Tensor, "batch heads tokens width"],
    key: Float[Tensor, "batch key_heads keys width"],
    value: Float[Tensor, "batch key_heads keys width"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    passages: PassageReading | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention function of a decoder layer; in the last layer, only answers come first and the rest is zero."""
    if passages is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    for number, stretch in enumerate(passages.keep):
        if len(passages.kept) <= number:
            passages.kept.append([])
        # A layer that is computed again in the backward pass has its states there already.
        if len(passages.kept[number]) <= module.layer_idx:
            # Copies, because a stretch would hold the whole row in memory.
            passages.kept[number].append((key[:, :, stretch].clone(), value[:, :, stretch].clone()))
    if passages.past is not None:
        past_key, past_value = passages.past[module.layer_idx]
        key, value = torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)
    groups, order = passages.groups, passages.order
    if passages.is_last_layer:
        groups, order = passages.answers, passages.answer_order
    outputs = [_read(group, query, key, value, scaling) for group in groups]
    if not outputs:
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None
    output = torch.cat(outputs)[order]  # (tokens, heads, width)
    return functional.pad(output, (0, 0, 0, 0, 0, query.shape[2] - len(output)))[None], None


def _read(
    group: ReadingGroup, query: Tensor, key: Tensor, value: Tensor, scaling: float | None
) -> Float[Tensor, "tokens heads width"]:
    passages, queries = group.queries.shape
    heads, width, key_heads = query.shape[1], query.shape[3], key.shape[1]
    shared = heads // key_heads
    # Heads that share keys become rows of one head, so that keys are not repeated.
    asked = query[0][:, group.queries.flatten()].view(key_heads, shared, passages, queries, width)
    asked = asked.permute(2, 0, 1, 3, 4).reshape(passages, key_heads, shared * queries, width)
    found = functional.scaled_dot_product_attention(
        asked,
        _gather(key, group.keys),
        _gather(value, group.keys),
        attn_mask=group.bias.to(query.dtype).expand(-1, -1, queries, -1).repeat(1, 1, shared, 1),
        scale=scaling,
    )
    found = (
        found.view(passages, key_heads, shared, queries, -1)
        .permute(0, 3, 1, 2, 4)
        .reshape(passages * queries, heads, -1)
    )
    return found if group.is_query is None else found[group.is_query]


def _gather(states: Float[Tensor, "1 heads tokens width"], places: Int[Tensor, "passages keys"]) -> Tensor:
    """The states that each passage reads."""
    passages, keys = places.shape
    found = states[0][:, places.flatten()]
    return found.view(len(found), passages, keys, states.shape[3]).transpose(0, 1)


def install(language_model: Any) -> None:
    """Let a language model of transformers read passages; without passages it does what it did."""
    AttentionInterface.register(ATTENTION_NAME, read_passages)
    AttentionMaskInterface.register(ATTENTION_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    for module in language_model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == "sdpa":
            config._attn_implementation_internal = ATTENTION_NAME
