"""One judged record as it is stored: a prompt and two or more media, and what people said about them.

A record of two media is one comparison. A record of more, such as a ranking of four images, stands for every pair of
them; the pairs share the record's group, because they are not independent of each other.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from rewarddance.core.errors import DataError
from rewarddance.core.rationale_text import rationale_when_swapped
from rewarddance.core.types import Choice, Comparison, Media

_CHOICES = ("first", "second", "tie")


@dataclass(frozen=True, slots=True)
class ComparisonRecord:
    """A prompt and two or more media, judged by a choice or by ranks.

    Attributes:
        id: Unique in its data set.
        prompt: The text that asked for the media.
        candidates: The media, in the order in which they are shown.
        choice: Judgement of two candidates; None when it is given by `ranks`, or not at all.
        ranks: One number a candidate, lower is better, equal is a tie.
        annotator_ranks: The same from each judge alone; pairs get their soft label from it.
        second_preference: Soft label of two candidates, the share of judges in [0, 1] that prefer the second.
        dimensions: Choices per dimension of two candidates.
        ratings: Per dimension one number a candidate, higher is better; pairs get their choice per dimension from it.
        instruction: Name of the criteria that the judges were given, or the path of a YAML file with them.
        source_media: What an edit or an image-to-video prompt starts from.
        confidence: The data set's own confidence in the choice, in [0, 1].
        weight: How much every comparison of the record counts in training.
        group_id: Records of one group are not independent, such as those of one prompt.
        split: Name of the split, such as `train`.
        source: Name of the data set.
        origin: File and row it was read from.
        rationale: Reasons for the choice between two candidates, which it calls image 1 and image 2 in their order.
    """

    id: str
    prompt: str
    candidates: tuple[Media, ...]
    choice: Choice | None = None
    ranks: tuple[float, ...] | None = None
    annotator_ranks: tuple[tuple[float, ...], ...] = ()
    second_preference: float | None = None
    dimensions: Mapping[str, Choice] = field(default_factory=dict)
    ratings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    instruction: str | Path | None = None
    source_media: Media | None = None
    confidence: float | None = None
    weight: float = 1.0
    group_id: str | None = None
    split: str | None = None
    source: str | None = None
    origin: str | None = None
    rationale: str | None = None

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem is not None:
            raise DataError(f"comparison {self.id}: {problem}")

    def _problem(self) -> str | None:
        count = len(self.candidates)
        per_candidate = [*([self.ranks] if self.ranks is not None else []), *self.annotator_ranks]
        only_two = self.choice is not None or self.second_preference is not None or bool(self.dimensions)
        soft = [value for value in (self.second_preference, self.confidence) if value is not None]
        checks = {
            f"{count} candidates; two or more are needed": count < 2,
            "a choice, soft label or dimension is for two candidates; give ranks": only_two and count > 2,
            "a rationale is about two candidates": self.rationale is not None and count > 2,
            "both a choice and ranks; give one": self.choice is not None and self.ranks is not None,
            f"choice {self.choice!r}; it is first, second or tie": self.choice not in (None, *_CHOICES),
            "a dimension's choice is first, second or tie": any(c not in _CHOICES for c in self.dimensions.values()),
            "one rank or rating a candidate is needed": any(
                len(numbers) != count for numbers in (*per_candidate, *self.ratings.values())
            ),
            "a rank or rating is not finite": not all(
                math.isfinite(number) for numbers in (*per_candidate, *self.ratings.values()) for number in numbers
            ),
            "soft label and confidence lie in [0, 1]": any(not 0.0 <= value <= 1.0 for value in soft),
            "the weight is a finite number above 0": not (math.isfinite(self.weight) and self.weight > 0.0),
        }
        return next((text for text, is_wrong in checks.items() if is_wrong), None)

    @property
    def pair_count(self) -> int:
        """Number of comparisons it stands for: n (n - 1) / 2."""
        return math.comb(len(self.candidates), 2)

    def reordered(self, order: tuple[int, ...]) -> "ComparisonRecord":
        """The same judgement with the candidates shown in another order.

        Args:
            order: Old index of each candidate in the new order: a permutation, or fewer to leave candidates out.
        """
        record = self
        if order == (1, 0) and len(self.candidates) == 2:
            shown = self.pair(0, 1).swapped()
            record = replace(
                self,
                choice=None if self.choice is None else shown.choice,
                second_preference=None if self.second_preference is None else shown.second_preference,
                dimensions={name: shown.dimensions[name] for name in self.dimensions},
                rationale=rationale_when_swapped(self.rationale),
            )
        return replace(
            record,
            candidates=tuple(self.candidates[index] for index in order),
            ranks=None if self.ranks is None else _picked(self.ranks, order),
            annotator_ranks=tuple(_picked(ranks, order) for ranks in self.annotator_ranks),
            ratings={name: _picked(ratings, order) for name, ratings in self.ratings.items()},
        )

    def pair(self, first: int, second: int) -> Comparison:
        """One of the record's comparisons.

        Args:
            first: Index of the candidate shown first.
            second: Index of the other, higher than `first`.
        """
        is_only = len(self.candidates) == 2
        rated = {name: _choice_of(-ratings[first], -ratings[second]) for name, ratings in self.ratings.items()}
        soft = self.second_preference
        if soft is None and self.annotator_ranks:
            soft = sum(_share_of(ranks[first], ranks[second]) for ranks in self.annotator_ranks)
            soft /= len(self.annotator_ranks)
        return Comparison(
            id=self.id if is_only else f"{self.id}#{first}-{second}",
            prompt=self.prompt,
            first=self.candidates[first],
            second=self.candidates[second],
            choice=self.choice if self.ranks is None else _choice_of(self.ranks[first], self.ranks[second]),
            second_preference=soft,
            dimensions={**rated, **self.dimensions},
            instruction=self.instruction,
            source_media=self.source_media,
            confidence=self.confidence,
            weight=self.weight,
            group_id=self.group_id if is_only else self.group_id or self.id,
            source=self.source,
            origin=self.origin,
            rationale=self.rationale,
        )

    def pairs(self) -> tuple[Comparison, ...]:
        """Every comparison the record stands for, candidates in their stored order."""
        return tuple(self.pair(first, second) for first, second in combinations(range(len(self.candidates)), 2))


def _picked(numbers: tuple[float, ...], order: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(numbers[index] for index in order)


def _choice_of(first_rank: float, second_rank: float) -> Choice:
    if first_rank == second_rank:
        return "tie"
    return "first" if first_rank < second_rank else "second"


def _share_of(first_rank: float, second_rank: float) -> float:
    """What one judge adds to the share that prefers the second medium; a tie adds one half."""
    return {"first": 0.0, "tie": 0.5, "second": 1.0}[_choice_of(first_rank, second_rank)]
