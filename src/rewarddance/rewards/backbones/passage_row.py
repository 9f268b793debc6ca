"""Passages packed into one row of tokens, with who reads what; everything as index tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from rewarddance.rewards.backbones.passage_attention import PassageReading, ReadingGroup
from rewarddance.rewards.backbones.passages import Passage, PassagePlan, feature_of

_MAX_WASTE = 1.25  # padded over useful attention in a group
_MAX_GROUP_KEYS = 32_768  # gathered keys of a group: some tens of megabytes
# Fewer rows take another path through the matrix library, with other rounding.
_MIN_ANSWERS = 8

States = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of a stretch of tokens by layer."""


@dataclass(frozen=True, slots=True, eq=False)
class PassageRow:
    """What the language model is given.

    Attributes:
        token_ids: Image tokens have some token's id; their embedding is replaced.
        positions: As the family's rotary embedding wants them.
        image_places: Where image tokens stand.
        image_features: Which rows of all images' features belong there.
        reading: Who reads what.
        answer_places: Places whose hidden state is an answer; padded to a number that rounds as more rows do.
        answered: Passages that the answers belong to, without padding.
        kept: Passages whose keys and values are kept, in the order of `reading.keep`.
    """

    token_ids: Int[Tensor, " tokens"]
    positions: Int[Tensor, "axes 1 tokens"]
    image_places: Int[Tensor, " images"]
    image_features: Int[Tensor, " images"]
    reading: PassageReading
    answer_places: Int[Tensor, " answers"]
    answered: tuple[int, ...]
    kept: tuple[int, ...]


def pack(
    plan: PassagePlan,
    numbers: Sequence[int],
    states: Mapping[int, States],
    wanted: Sequence[int],
    first_rows: Sequence[int],
    device: torch.device,
) -> PassageRow:
    """One row of passages.

    Args:
        plan: All passages.
        numbers: Those to read, in the plan's order.
        states: What is kept of the others that they see.
        wanted: Those of `numbers` whose keys and values are kept.
        first_rows: Where each picture's features begin.
        device: Of the tensors.
    """
    passages = [plan.passages[number] for number in numbers]
    past_numbers = sorted({seen for one in passages for seen in one.sees} - set(numbers))
    places: dict[int, ndarray] = {}
    length = 0
    for number in (*past_numbers, *numbers):
        size = len(plan.passages[number])
        places[number] = np.arange(length, length + size)
        length += size
    past_length = length - sum(map(len, passages))
    codes = np.concatenate([one.codes for one in passages])
    images = np.flatnonzero(codes < 0)
    pictures, rows = feature_of(codes[images])
    features = np.array(first_rows)[pictures] + rows if len(images) else rows
    readers = [_Reader.of(plan.passages[number], number, places, past_length) for number in numbers]
    answers = set(plan.answers)
    last = [reader.of_last_token() for reader in readers if reader.number in answers]
    last += last[:1] * (_MIN_ANSWERS - len(last)) if last else []
    groups, order = _groups(readers, device)
    answer_groups, answer_order = _groups(last, device)
    past = _past([states[number] for number in past_numbers])
    keep = [slice(int(places[one][0]) - past_length, int(places[one][-1]) + 1 - past_length) for one in wanted]
    return PassageRow(
        token_ids=torch.from_numpy(np.where(codes < 0, 0, codes)).to(device),
        positions=torch.cat([one.positions for one in passages], dim=1)[:, None].to(device),
        image_places=torch.from_numpy(images).to(device),
        image_features=torch.from_numpy(features).to(device),
        reading=PassageReading(groups, order, answer_groups, answer_order, past, keep),
        answer_places=torch.tensor([int(one.queries[0]) for one in last], dtype=torch.long, device=device),
        answered=tuple(number for number in numbers if number in answers),
        kept=tuple(wanted),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Reader:
    """Tokens of a passage that read.

    Attributes:
        number: The passage.
        queries: Their places in the packed row.
        keys: Places of what the last of them reads, kept tokens first.
    """

    number: int
    queries: Int[ndarray, " queries"]
    keys: Int[ndarray, " keys"]

    @classmethod
    def of(cls, passage: Passage, number: int, places: Mapping[int, Int[ndarray, " _"]], past_length: int) -> "_Reader":
        own = places[number]
        return cls(number, own - past_length, np.concatenate([*(places[seen] for seen in passage.sees), own]))

    def of_last_token(self) -> "_Reader":
        """The passage's last token alone, which reads all the same."""
        return _Reader(self.number, self.queries[-1:], self.keys)


def _groups(readers: Sequence[_Reader], device: torch.device) -> tuple[list[ReadingGroup], Int[Tensor, " tokens"]]:
    """Readers of similar size together; and where each of their tokens then stands, in the readers' order."""
    ordered = sorted(range(len(readers)), key=lambda n: (len(readers[n].queries), len(readers[n].keys)))
    groups: list[list[int]] = []
    for number in ordered:
        if groups and _fits([readers[one] for one in (*groups[-1], number)]):
            groups[-1].append(number)
        else:
            groups.append([number])
    sizes = np.array([len(reader.queries) for reader in readers], dtype=np.int64)
    starts = np.zeros(len(readers), dtype=np.int64)
    starts[ordered] = np.cumsum(sizes[ordered]) - sizes[ordered]
    order = [start + np.arange(size) for start, size in zip(starts, sizes, strict=True)]
    return (
        [_group([readers[number] for number in group], device) for group in groups],
        torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *order])).to(device),
    )


def _fits(readers: Sequence[_Reader]) -> bool:
    queries = max(len(reader.queries) for reader in readers)
    keys = max(len(reader.keys) for reader in readers)
    useful = sum(len(reader.queries) * len(reader.keys) for reader in readers)
    padded = queries * keys * len(readers)
    return padded <= _MAX_WASTE * useful and keys * len(readers) <= _MAX_GROUP_KEYS


def _group(readers: Sequence[_Reader], device: torch.device) -> ReadingGroup:
    queries = max(len(reader.queries) for reader in readers)
    keys = max(len(reader.keys) for reader in readers)
    is_even = all(len(reader.queries) == queries and len(reader.keys) == keys for reader in readers)
    biases = [_bias(reader, queries, keys) for reader in (readers[:1] if is_even else readers)]
    is_query = np.concatenate([np.arange(queries) < len(reader.queries) for reader in readers])
    return ReadingGroup(
        queries=_padded([reader.queries for reader in readers], queries, device),
        keys=_padded([reader.keys for reader in readers], keys, device),
        bias=torch.stack(biases)[:, None].to(device),
        is_query=None if is_even else torch.from_numpy(is_query).to(device),
    )


def _bias(reader: _Reader, queries: int, keys: int) -> Tensor:
    """Zero where a query reads: everything seen, and its own passage up to itself."""
    own_queries, own_keys = len(reader.queries), len(reader.keys)
    # A repeated query reads what the last one does; a repeated key is read by nobody.
    furthest = (torch.arange(queries).clamp(max=own_queries - 1) + own_keys - own_queries)[:, None]
    reads = torch.arange(keys)[None] <= furthest
    return torch.zeros(queries, keys).masked_fill(~reads, float("-inf"))


def _padded(rows: Sequence[Int[ndarray, " _"]], length: int, device: torch.device) -> Int[Tensor, "rows length"]:
    whole = [row if len(row) == length else np.pad(row, (0, length - len(row)), mode="edge") for row in rows]
    return torch.from_numpy(np.stack(whole)).to(device)


def _past(states: Sequence[States]) -> list[tuple[Tensor, Tensor]] | None:
    """Kept tokens one behind the other, layer by layer."""
    if not states:
        return None
    return [
        (torch.cat([key for key, _ in layer], dim=2), torch.cat([value for _, value in layer], dim=2))
        for layer in zip(*states, strict=True)
    ]
