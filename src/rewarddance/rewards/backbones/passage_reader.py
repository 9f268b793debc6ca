"""The language model reads a packed row of passages, layer by layer, with transformers' own layers.

In the last layer nothing but the answers has to be computed: the keys and values of all, and the rest of the layer
for the answers' positions alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.rewards.backbones.passage_row import PassageRow

_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


@dataclass(frozen=True, slots=True, eq=False)
class PictureFeatures:
    """What the vision tower makes of an image.

    Attributes:
        rows: One an image token, of the language model's width.
        deep: The same for each of the first layers that are given more (Qwen3-VL); empty for other families.
    """

    rows: Float[Tensor, "tokens width"]
    deep: tuple[Float[Tensor, "_ _"], ...] = ()

    @property
    def nbytes(self) -> int:
        """Of all features."""
        return sum(one.nbytes for one in (self.rows, *self.deep))


def read_row(
    language_model: Any, row: PassageRow, features: Sequence[PictureFeatures]
) -> Float[Tensor, "answers width"]:
    """Hidden state after the final norm for each of `row.answered`; fills `row.reading.kept`.

    Args:
        language_model: Transformers' text model, prepared by `passage_attention.install`.
        row: What is read.
        features: Of all pictures of the plan, in its order.
    """
    hidden = language_model.get_input_embeddings()(row.token_ids)
    if len(row.image_places):
        rows = torch.cat([one.rows for one in features]).to(hidden.dtype)
        hidden = hidden.index_copy(0, row.image_places, rows[row.image_features])
    hidden = hidden[None]  # (1, tokens, width)
    positions = row.positions if len(row.positions) > 1 else row.positions[0]
    options: Mapping[str, Any] = {
        "attention_mask": None,
        "position_embeddings": language_model.rotary_emb(hidden, positions),
        "passages": row.reading,
    }
    layers = language_model.layers
    for number, layer in enumerate(layers[:-1]):
        hidden = layer(hidden, **options)
        if features and number < len(features[0].deep) and len(row.image_places):
            deep = torch.cat([one.deep[number] for one in features]).to(hidden.dtype)
            hidden = hidden.index_add(1, row.image_places, deep[row.image_features][None])
    answers = _last_layer(layers[-1], hidden, row, options)
    normed: Tensor = language_model.norm(answers)
    return normed[: len(row.answered)]


def _last_layer(layer: Any, hidden: Tensor, row: PassageRow, options: Mapping[str, Any]) -> Tensor:
    """The last layer at the answers' positions."""
    if {name for name, _ in layer.named_children()} != _LAYER_PARTS:
        whole: Tensor = layer(hidden, **options)[0, row.answer_places]
        return whole
    reading = replace(row.reading, is_last_layer=True)
    attended = layer.self_attn(hidden_states=layer.input_layernorm(hidden), **{**options, "passages": reading})[0]
    answers: Tensor = hidden[0, row.answer_places] + attended[0, : len(row.answer_places)]
    rest: Tensor = layer.mlp(layer.post_attention_layernorm(answers))
    return answers + rest
