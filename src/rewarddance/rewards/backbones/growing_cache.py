"""Keys and values of a continuation, with room behind them.

`DynamicCache` copies everything at every token, which on CPU is most of the time that a small model takes to write.
Here tokens are put behind what is there; it is copied only when the room is used up.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 64
"""Tokens for which there is room after a copy."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # its __init_subclass__ has no annotations
    """One layer; `keys` and `values` are views of the filled part."""

    keys: Tensor
    values: Tensor
    _key_room: Tensor | None = None
    _value_room: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Put states behind those that are there, and return all."""
        if self.is_initialized:
            self._key_room, self.keys = _behind(self._key_room, self.keys, key_states)
            self._value_room, self.values = _behind(self._value_room, self.values, value_states)
        else:
            self._start(key_states, value_states)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Make every row stand several times, one behind the other."""
        self._start(self.keys.repeat_interleave(repeats, dim=0), self.values.repeat_interleave(repeats, dim=0))

    def split_off(self, leaving: Int[Tensor, " leaving"], staying: Int[Tensor, " staying"]) -> "GrowingLayer":
        """Take rows out, as a layer of their own."""
        apart = GrowingLayer()  # type: ignore[no-untyped-call]
        apart._start(self.keys[leaving], self.values[leaving])
        self._start(self.keys[staying], self.values[staying])
        return apart

    def _start(self, keys: Tensor, values: Tensor) -> None:
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._key_room = self._value_room = None


class GrowingCache(Cache):
    """A `GrowingLayer` for every layer of the model."""

    def __init__(self, layers: list[GrowingLayer] | None = None) -> None:
        """Start empty, or with the layers given."""
        if layers is None:
            super().__init__(layer_class_to_replicate=GrowingLayer)
        else:
            super().__init__(layers=list(layers))

    def split_off(self, leaving: Int[Tensor, " leaving"], staying: Int[Tensor, " staying"]) -> "GrowingCache":
        """Take rows out, as a cache of their own; layer by layer, so that only one stands in memory twice."""
        return GrowingCache([cast(GrowingLayer, layer).split_off(leaving, staying) for layer in self.layers])


def _behind(
    room: Tensor | None, known: Float[Tensor, "rows heads before width"], added: Float[Tensor, "rows heads added width"]
) -> tuple[Tensor, Float[Tensor, "rows heads after width"]]:
    """The room, a larger one if it was too small, and its filled part."""
    before = known.shape[-2]
    after = before + added.shape[-2]
    if room is None or room.shape[-2] < after:
        room = torch.empty((*known.shape[:2], after + _ROOM, known.shape[3]), dtype=known.dtype, device=known.device)
        room[..., :before, :] = known
    room[..., before:after, :] = added
    return room, room[..., :after, :]
