"""Comparisons of one medium with several others of its prompt together, made from comparisons of two.

A model learns from them what "is image 3 better than image 1 and image 2?" means: the share of the reference images
that the candidate is preferred to, which is its win count against them. They can be made wherever a medium was
compared with several others, as in a ranking.

Source:
    RewardDance, arXiv:2509.08826, section 3.3 and Table 8: candidates stand by their win count, and two references are
    used. How a model is taught to see two references is not said there; this target is ours.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

from rewarddance.core.errors import UsageError
from rewarddance.core.seeding import numpy_rng
from rewarddance.core.types import Comparison


@dataclass(frozen=True, slots=True)
class _Side:
    """One medium's side of a comparison."""

    comparison: int
    is_second: bool


@dataclass(frozen=True)
class ComparisonsWithSets(Sequence[Comparison]):
    """Comparisons of two, and behind them those with reference sets, which are made when they are asked for.

    Attributes:
        comparisons: Those of two media.
        sets: For each further comparison, the candidate's side in the comparisons that it is made from.
    """

    comparisons: Sequence[Comparison]
    sets: tuple[tuple[_Side, ...], ...]

    def __len__(self) -> int:
        return len(self.comparisons) + len(self.sets)

    @overload
    def __getitem__(self, index: int) -> Comparison: ...

    @overload
    def __getitem__(self, index: slice) -> list[Comparison]: ...

    def __getitem__(self, index: int | slice) -> Comparison | list[Comparison]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if place >= len(self.comparisons):
            return _together([self._shown(side) for side in self.sets[place - len(self.comparisons)]])
        return self.comparisons[place]

    def _shown(self, side: _Side) -> Comparison:
        comparison = self.comparisons[side.comparison]
        return comparison if side.is_second else comparison.swapped()


def with_reference_sets(comparisons: Sequence[Comparison], sizes: Sequence[int], seed: int) -> ComparisonsWithSets:
    """The comparisons, and behind them one for every medium and size.

    Args:
        comparisons: Of two media; those that are not judged make no sets.
        sizes: Reference images in one question, each at least 2. A medium that was compared with fewer others under
            the same prompt, criteria and source makes no set of that size.
        seed: Decides which of a medium's opponents are its references, and in which order they stand.

    Raises:
        UsageError: A size below 2, or no medium was compared with that many others.
    """
    if any(size < 2 for size in sizes):
        raise UsageError(f"a reference set has at least 2 images, not {min(sizes)}")
    met = _sides_by_medium(comparisons)
    sets: list[tuple[_Side, ...]] = []
    for size in sizes:
        before = len(sets)
        for medium, sides in met.items():
            if len(sides) >= size:
                chosen = numpy_rng(seed, "reference set", size, *medium).permutation(len(sides))[:size]
                known = list(sides.values())
                sets.append(tuple(known[place] for place in chosen))
        if len(sets) == before:
            raise UsageError(
                f"no medium was compared with {size} others of its prompt, so no set of {size} references can be made; "
                "give rankings, or smaller sets"
            )
    return ComparisonsWithSets(comparisons, tuple(sets))


def _sides_by_medium(comparisons: Sequence[Comparison]) -> Mapping[tuple[str, ...], Mapping[str, _Side]]:
    """For every medium under its question, the comparison with each opponent; the first counts if there are several."""
    met: dict[tuple[str, ...], dict[str, _Side]] = defaultdict(dict)
    for index, comparison in enumerate(comparisons):
        if comparison.target is None:
            continue
        source = "" if comparison.source_media is None else str(comparison.source_media.path)
        asked = (comparison.prompt, str(comparison.instruction), source)
        first, second = str(comparison.first.path), str(comparison.second.path)
        met[(*asked, second)].setdefault(first, _Side(index, is_second=True))
        met[(*asked, first)].setdefault(second, _Side(index, is_second=False))
    return met


def _together(shown: Sequence[Comparison]) -> Comparison:
    """One comparison against all the first media, from comparisons that have the same second medium."""
    targets = [one.target for one in shown if one.target is not None]
    return replace(
        shown[0],
        id="+".join(one.id for one in shown),
        choice=None,
        second_preference=sum(targets) / len(targets),
        dimensions={},
        confidence=None,
        weight=sum(one.weight for one in shown) / len(shown),
        beside_first=tuple(one.first for one in shown[1:]),
        rationale=None,  # reasons speak of two media
    )
