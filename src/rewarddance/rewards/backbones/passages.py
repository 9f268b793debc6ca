"""Questions cut into passages: runs of tokens that are read once, whoever shares them.

A passage reads the passages that it sees, whole, and itself from left to right. Two layouts lead to passages:

- causal: questions are cut where they part from each other and before each image; a passage sees all that stands
  before it in its question, so every answer is that of the whole question read alone.
- blocks: each medium sees the head of the question and itself, and the rest of the question sees all; see `blocks`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from rewarddance.rewards.backbones.blocks import Span, block_spans
from rewarddance.rewards.backbones.protocol import EncodedQuestion, Picture

_MIN_SHARED_TOKENS = 16  # a shorter run of text costs more as a passage than it saves
_ROW_BITS = 24

Positions = Callable[[EncodedQuestion], Int[Tensor, "axes length"]]
"""Rotary positions of one question that stands alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """A run of tokens.

    Attributes:
        codes: Token ids; below zero for image tokens, see `feature_of`.
        positions: Rotary positions, one row an axis.
        sees: Numbers of the earlier passages that it reads, in reading order.
        key: Equal for passages with equal keys and values, in any call; None for one that is not kept.
        is_live: Whether pixels with gradient are in what it reads.
    """

    codes: Int[ndarray, " tokens"]
    positions: Int[Tensor, "axes tokens"]
    sees: tuple[int, ...]
    key: bytes | None
    is_live: bool

    def __len__(self) -> int:
        """Tokens."""
        return len(self.codes)


@dataclass(frozen=True, slots=True)
class PassagePlan:
    """What has to be read to answer some questions.

    Attributes:
        passages: Every passage stands after those that it sees.
        answers: For each question, the passage whose last token the answer follows.
        pictures: The distinct images.
        digests: Of their content; None for an image with gradient.
    """

    passages: tuple[Passage, ...]
    answers: tuple[int, ...]
    pictures: tuple[Picture, ...]
    digests: tuple[bytes | None, ...]

    @property
    def tokens(self) -> int:
        """Of all passages."""
        return sum(map(len, self.passages))

    def to_learn(self) -> "PassagePlan":
        """The same with every image read anew: while weights learn, nothing that was read before still holds."""
        return replace(self, digests=(None,) * len(self.pictures))

    def with_exact_keys(self) -> "PassagePlan":
        """The same with keys that tell apart what was cut in other places before: it rounds otherwise."""
        exact: list[Passage] = []
        for one in self.passages:
            before = b"".join(exact[number].key or b"" for number in one.sees)
            key = None if one.key is None else hashlib.sha256(one.key + before).digest()
            exact.append(replace(one, key=key))
        return replace(self, passages=tuple(exact))


def feature_of(codes: Int[ndarray, " tokens"]) -> tuple[Int[ndarray, " tokens"], Int[ndarray, " tokens"]]:
    """Number of the picture, and row of its features, for the codes of image tokens."""
    values = -codes - 1
    return values >> _ROW_BITS, values & (2**_ROW_BITS - 1)


def plan_passages(
    questions: Sequence[EncodedQuestion], positions: Positions, image_token_id: int, is_blocks: bool
) -> PassagePlan:
    """Cuts questions into passages that are each read once.

    Args:
        questions: At least one; equal ones are answered by the same passage.
        positions: Gives the family's positions.
        image_token_id: Marks image tokens.
        is_blocks: Whether media are read apart from each other.
    """
    pictures = _Pictures()
    codes = [_codes(question, image_token_id, pictures) for question in questions]
    planner = _Planner(pictures)
    spans = (
        [block_spans(question, positions(question), image_token_id) for question in questions]
        if is_blocks
        else [_causal_spans(positions(question), own) for question, own in zip(questions, codes, strict=True)]
    )
    heads = [own[: found[0].stop] for own, found in zip(codes, spans, strict=True)]
    cuts = _shared_cuts(heads)
    answers = [
        planner.add_question(own, found, sorted(inner)) for own, found, inner in zip(codes, spans, cuts, strict=True)
    ]
    return PassagePlan(tuple(planner.passages), tuple(answers), tuple(pictures.known), tuple(pictures.digests))


class _Pictures:
    """Images by content."""

    def __init__(self) -> None:
        self.known: list[Picture] = []
        self.digests: list[bytes | None] = []
        self._by_object: dict[int, int] = {}
        self._by_content: dict[bytes, int] = {}

    def number(self, picture: Picture) -> int:
        """Of the image; the same for equal images without gradient."""
        if id(picture) in self._by_object:
            return self._by_object[id(picture)]
        digest = None if picture.pixel_values.requires_grad else _digest(picture)
        number = len(self.known) if digest is None else self._by_content.setdefault(digest, len(self.known))
        if number == len(self.known):
            self.known.append(picture)
            self.digests.append(digest)
        self._by_object[id(picture)] = number
        return number


def _digest(picture: Picture) -> bytes:
    pixels = picture.pixel_values.detach().cpu().contiguous()
    content = hashlib.sha256(f"{pixels.dtype} {tuple(pixels.shape)} {picture.grid}".encode())
    content.update(pixels.reshape(-1).view(torch.uint8).numpy().data)
    return content.digest()


def _codes(question: EncodedQuestion, image_token_id: int, pictures: _Pictures) -> Int[ndarray, " tokens"]:
    codes = np.array(question.token_ids, dtype=np.int64)
    if question.pictures:
        rows = [(pictures.number(picture) << _ROW_BITS) + np.arange(picture.tokens) for picture in question.pictures]
        codes[codes == image_token_id] = -np.concatenate(rows) - 1
    return codes


def _causal_spans(positions: Tensor, codes: Int[ndarray, " tokens"]) -> list[Span]:
    """Cut before each image but within no text: what stands between images repeats with the first of them."""
    numbers = np.where(codes < 0, (-codes - 1) >> _ROW_BITS, -1)
    firsts = np.flatnonzero((numbers >= 0) & (np.roll(numbers, 1) != numbers)).tolist()
    # The tiles of one image may stand apart, with text between them.
    seen: set[int] = set()
    cuts = [0]
    for first in firsts:
        if numbers[first] not in seen and first > cuts[-1]:
            cuts.append(first)
        seen.add(int(numbers[first]))
    ends = [*cuts[1:], len(codes)]
    return [
        Span(start, stop, tuple(range(place)), positions[:, start:stop])
        for place, (start, stop) in enumerate(zip(cuts, ends, strict=True))
    ]


def _shared_cuts(rows: Sequence[Int[ndarray, " _"]]) -> list[set[int]]:
    """Places inside each row at which rows that begin alike part."""
    cuts: list[set[int]] = [set() for _ in rows]
    pending = [(list(range(len(rows))), 0)]
    while pending:
        group, start = pending.pop()
        if len(group) == 1:
            continue
        shared = min(_common(rows[group[0]], rows[number]) for number in group[1:])
        if shared - start >= _MIN_SHARED_TOKENS:
            start = shared
            for number in group:
                if shared < len(rows[number]):
                    cuts[number].add(shared)
        longer = [number for number in group if len(rows[number]) > shared]
        longer.sort(key=lambda number: int(rows[number][shared]))
        pending += [(list(part), start) for _, part in groupby(longer, key=lambda n: int(rows[n][shared]))]
    return cuts


def _common(one: Int[ndarray, " tokens"], other: Int[ndarray, " tokens2"]) -> int:
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length


class _Planner:
    """Collects passages, each once."""

    def __init__(self, pictures: _Pictures) -> None:
        self.passages: list[Passage] = []
        self._pictures = pictures
        self._known: dict[tuple[Any, ...], int] = {}
        self._contents: list[Any] = []

    def add_question(self, codes: Int[ndarray, " tokens"], spans: Sequence[Span], head_cuts: Sequence[int]) -> int:
        """Number of the passage that ends with the question."""
        placed: list[tuple[int, ...]] = []  # passages of each span
        for place, span in enumerate(spans):
            sees = tuple(number for other in span.sees for number in placed[other])
            cuts = [span.start, *(head_cuts if place == 0 else ()), span.stop]
            own: list[int] = []
            for start, stop in pairwise(cuts):
                positions = span.positions[:, start - span.start : stop - span.start]
                is_final = place == len(spans) - 1 and stop == span.stop
                own.append(self._add(codes[start:stop], positions, (*sees, *own), start, is_final))
            placed.append(tuple(own))
        return placed[-1][-1]

    def _add(
        self, codes: Int[ndarray, " tokens"], positions: Tensor, sees: tuple[int, ...], start: int, is_final: bool
    ) -> int:
        identity = (sees, codes.tobytes(), int(positions[0, 0]), is_final)
        if identity in self._known:
            return self._known[identity]
        numbers = sorted({int(number) for number in feature_of(codes[codes < 0])[0]})
        is_live = any(self._pictures.digests[number] is None for number in numbers) or any(
            self.passages[number].is_live for number in sees
        )
        is_passing = any(self._pictures.known[number].is_passing for number in numbers) or any(
            self.passages[number].key is None for number in sees
        )
        content = self._content(codes, positions, sees)
        # Where a passage begins is not in its content: the same text may be cut elsewhere in another call.
        key = None if is_live or is_passing or is_final else content.digest() + start.to_bytes(8, "little")
        number = len(self.passages)
        self.passages.append(Passage(codes, positions, sees, key, is_live))
        self._contents.append(content)
        self._known[identity] = number
        return number

    def _content(self, codes: Int[ndarray, " tokens"], positions: Tensor, sees: tuple[int, ...]) -> Any:
        """Running hash of what the passage reads, to its end."""
        content = self._contents[sees[-1]].copy() if sees else hashlib.sha256()
        numbers, rows = feature_of(codes)
        portable = np.where(codes < 0, -rows - 1, codes)
        for start in _run_starts(np.where(codes < 0, numbers, -1)):
            if codes[start] < 0:
                content.update(self._pictures.digests[int(numbers[start])] or b"live")
        content.update(np.stack([portable, *positions.numpy()]).T.tobytes())
        return content


def _run_starts(values: Int[ndarray, " tokens"]) -> list[int]:
    return [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()]
