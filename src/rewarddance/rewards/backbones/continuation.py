"""Questions that have been read, to be continued token by token from their key/value cache.

Rows end at different times. A row that has ended is fed padding that nothing attends to, so its state, and every
other row's, is what it would be alone.
"""

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rewarddance.rewards.backbones.growing_cache import GrowingCache


@dataclass(slots=True)
class Continuation:
    """A batch of rows behind which tokens can be put; changed in place.

    Attributes:
        model: The inner transformers model, without the vocabulary head.
        cache: Keys and values of everything read so far.
        attention_mask: 1 where a row has a token, shape (rows, length).
        next_positions: Position of each row's next token, shape (rows,).
        hidden: Hidden state of each row's last token, after the final norm, shape (rows, width).
        position_axes: How many positions the family gives each token.
    """

    model: Any
    cache: GrowingCache
    attention_mask: Int[Tensor, "rows length"]
    next_positions: Int[Tensor, " rows"]
    hidden: Float[Tensor, "rows width"]
    position_axes: int

    def repeat(self, times: int) -> None:
        """Make every row stand `times` times, one behind the other; what was read is not read again."""
        if times > 1:
            self.cache.batch_repeat_interleave(times)
            self.attention_mask = self.attention_mask.repeat_interleave(times, dim=0)
            self.next_positions = self.next_positions.repeat_interleave(times)
            self.hidden = self.hidden.repeat_interleave(times, dim=0)

    def split_off(self, leaving: Bool[Tensor, " rows"]) -> "Continuation":
        """Take rows out, to be continued by themselves; the others stay, in their order."""
        left, stayed = leaving.nonzero()[:, 0], (~leaving).nonzero()[:, 0]
        apart = replace(
            self,
            cache=self.cache.split_off(left, stayed),
            attention_mask=self.attention_mask[left],
            next_positions=self.next_positions[left],
            hidden=self.hidden[left],
        )
        self.attention_mask = self.attention_mask[stayed]
        self.next_positions = self.next_positions[stayed]
        self.hidden = self.hidden[stayed]
        return apart

    def feed(self, token_ids: Int[Tensor, "rows tokens"], is_fed: Bool[Tensor, " rows"]) -> None:
        """Put text tokens behind the rows.

        Args:
            token_ids: The same number for every row.
            is_fed: Rows that are meant; the others get padding and keep their hidden state.
        """
        count = token_ids.shape[1]
        shown = is_fed.to(self.attention_mask)
        self.attention_mask = torch.cat([self.attention_mask, shown[:, None].expand(-1, count)], dim=1)
        positions = self.next_positions[:, None] + torch.arange(count, device=token_ids.device)
        output = self.model(
            input_ids=token_ids,
            attention_mask=self.attention_mask,
            # Text moves along all axes at once, so that families with three axes take the same numbers for each.
            position_ids=positions if self.position_axes == 1 else positions.expand(self.position_axes, -1, -1),
            use_cache=True,
            **_kept_in(self.model, self.cache),
        )
        self.next_positions = self.next_positions + count * shown
        self.hidden = torch.where(is_fed[:, None], output.last_hidden_state[:, -1], self.hidden)


def begin(model: Any, inputs: dict[str, Any]) -> Continuation:
    """Read questions once and keep their keys and values.

    Args:
        model: The inner transformers model, without the vocabulary head.
        inputs: Its keyword arguments for left-padded questions.
    """
    cache = GrowingCache()
    output = model(**inputs, use_cache=True, **_kept_in(model, cache))
    positions: Tensor = inputs["position_ids"]
    last = positions[..., -1]  # (rows,) or (axes, rows)
    return Continuation(
        model=model,
        cache=cache,
        attention_mask=inputs["attention_mask"],
        next_positions=(last if last.ndim == 1 else last.amax(0)) + 1,
        hidden=output.last_hidden_state[:, -1],
        position_axes=1 if positions.ndim == 2 else positions.shape[0],
    )


def _kept_in(model: Any, cache: GrowingCache) -> dict[str, GrowingCache]:
    """The cache as a keyword argument; transformers 5.24 renamed it."""
    renamed = "cache" in inspect.signature(model.forward).parameters
    return {"cache" if renamed else "past_key_values": cache}
