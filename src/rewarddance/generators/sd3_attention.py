"""The last joint attention of Stable Diffusion 3, without what nobody reads.

Behind the last joint block only the picture's half goes on, but diffusers' processor computes the text's half too: with
333 text tokens, more than the picture's own of a small picture. Left out, the result is the same.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class PictureQueries:
    """An attention processor of diffusers: pictures ask, pictures and text answer.

    Differs:
        The projection of the text's queries is not used; a gradient by it is None instead of zeros.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "batch patches width"],
        encoder_hidden_states: Float[Tensor, "batch tokens width"],
        attention_mask: None = None,
    ) -> tuple[Tensor, Tensor]:
        """The picture's half of the attention; the text as it was, in the place of its half."""
        queries = _normed(attn.norm_q, _heads(attn.to_q(hidden_states), attn))
        keys = _normed(attn.norm_k, _heads(attn.to_k(hidden_states), attn))
        text_keys = _normed(attn.norm_added_k, _heads(attn.add_k_proj(encoder_hidden_states), attn))
        values, text_values = attn.to_v(hidden_states), attn.add_v_proj(encoder_hidden_states)
        mixed = functional.scaled_dot_product_attention(
            queries,
            torch.cat([keys, text_keys], dim=2),
            torch.cat([_heads(values, attn), _heads(text_values, attn)], dim=2),
        )
        picture = mixed.transpose(1, 2).flatten(2).to(queries.dtype)
        for layer in attn.to_out:
            picture = layer(picture)
        return picture, encoder_hidden_states


def leave_out_unread_queries(transformer: nn.Module) -> None:
    """Give the blocks whose text output is dropped the cheaper processor; others, and processors of others, stay."""
    for block in getattr(transformer, "transformer_blocks", ()):
        if getattr(block, "context_pre_only", False) and type(block.attn.processor) is JointAttnProcessor2_0:
            block.attn.set_processor(PictureQueries())


def _heads(states: Float[Tensor, "batch tokens width"], attn: Any) -> Float[Tensor, "batch heads tokens values"]:
    return states.view(*states.shape[:2], attn.heads, -1).transpose(1, 2)


def _normed(
    norm: nn.Module | None, states: Float[Tensor, "batch heads tokens values"]
) -> Float[Tensor, "batch heads tokens values"]:
    normed: Tensor = states if norm is None else norm(states)
    return normed
