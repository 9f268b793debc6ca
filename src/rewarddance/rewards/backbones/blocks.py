"""Block mode: images are read apart from each other, so that what was read of one serves in any company.

A question is a head (criteria and prompt), one block for each image or frame, and the rest. A block sees the head and
itself; the rest sees all. The second image is placed as if the first were of its own size, so its keys and values do
not depend on the first; two images of one size stand where they stand without block mode, but for a few tokens.

A tournament of N candidates then costs 2N blocks and one short question a pair. A model has to be trained in this
mode; the mode is stored with it.

Source:
    Block-Attention, arXiv:2409.15355, section 2 (blocks that see only themselves, a last block that sees all).
    Differs: blocks see the head, because what to look for stands in it; a block's positions are those of its slot
    and are not computed again when it is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rewarddance.rewards.backbones.protocol import EncodedQuestion


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Tokens of a question that see the same.

    Attributes:
        start: First token.
        stop: After the last token.
        sees: Numbers of the earlier spans of the question that it reads whole, in order.
        positions: Rotary positions of its tokens.
    """

    start: int
    stop: int
    sees: tuple[int, ...]
    positions: Int[Tensor, "axes tokens"]


def block_spans(question: EncodedQuestion, positions: Int[Tensor, "axes length"], image_token_id: int) -> list[Span]:
    """Head, blocks and rest of a question in block mode; one span if it shows nothing.

    Args:
        question: In the family's chat format.
        positions: Its positions without block mode.
        image_token_id: Marks image tokens.
    """
    bounds = _block_bounds(question, image_token_id)
    if not bounds:
        return [Span(0, len(question.token_ids), (), positions)]
    head_stop = bounds[0][0]
    head_end = int(positions[:, head_stop].min())
    spans = [Span(0, head_stop, (), positions[:, :head_stop])]
    furthest = head_end
    for slot, (start, stop) in enumerate(bounds):
        first, after = int(positions[:, start].min()), int(positions[:, stop].min())
        begin = head_end + slot * (after - first)
        spans.append(Span(start, stop, (0,), positions[:, start:stop] + (begin - first)))
        furthest = max(furthest, begin + after - first)
    stop = bounds[-1][1]
    rest = positions[:, stop:] + (furthest - int(positions[:, stop].min()))
    spans.append(Span(stop, len(question.token_ids), tuple(range(len(spans))), rest))
    return spans


def block_mask(spans: Sequence[Span]) -> Bool[Tensor, "length length"]:
    """Which token (row) reads which (column) in a question in block mode."""
    length = spans[-1].stop
    mask = torch.zeros(length, length, dtype=torch.bool)
    for span in spans:
        rows = slice(span.start, span.stop)
        mask[rows, rows] = torch.ones(span.stop - span.start, span.stop - span.start, dtype=torch.bool).tril()
        for number in span.sees:
            mask[rows, spans[number].start : spans[number].stop] = True
    return mask


def _block_bounds(question: EncodedQuestion, image_token_id: int) -> list[tuple[int, int]]:
    """First token and end of each image's block.

    In every family one special token stands before an image's first token and one after its last.
    """
    places = [place for place, token in enumerate(question.token_ids) if token == image_token_id]
    bounds: list[tuple[int, int]] = []
    shown = 0
    for picture in question.pictures:
        first = places[shown] - 1
        shown += picture.tokens
        bounds.append((bounds[-1][1] if bounds else first, places[shown - 1] + 2))
    return bounds
