from dataclasses import replace
from pathlib import Path

import pytest

from rewarddance.core.errors import DataError
from rewarddance.core.types import Media
from rewarddance.data.records import ComparisonRecord


def media(*names: str) -> tuple[Media, ...]:
    return tuple(Media(Path(f"{name}.png")) for name in names)


def ranking(**changes: object) -> ComparisonRecord:
    record = ComparisonRecord("r", "a cat", media("a", "b", "c"), ranks=(2.0, 1.0, 2.0))
    return replace(record, **changes)


def test_a_record_of_two_is_one_comparison_with_its_own_id() -> None:
    (pair,) = ComparisonRecord("r", "a cat", media("a", "b"), choice="second", weight=0.25).pairs()
    assert (pair.id, pair.choice, pair.weight, pair.target) == ("r", "second", 0.25, 1.0)


def test_a_ranking_stands_for_every_pair_and_equal_ranks_are_ties() -> None:
    # Ranks 2, 1, 2: b beats a, a ties c, b beats c.
    pairs = ranking().pairs()
    assert [(pair.id, pair.choice) for pair in pairs] == [("r#0-1", "second"), ("r#0-2", "tie"), ("r#1-2", "first")]


def test_pairs_of_a_ranking_share_a_group() -> None:
    assert {pair.group_id for pair in ranking().pairs()} == {"r"}
    assert {pair.group_id for pair in ranking(group_id="prompt-7").pairs()} == {"prompt-7"}


def test_single_judges_give_each_pair_a_soft_label() -> None:
    # a against b: judge 1 says b, judge 2 says tie: (1 + 0.5) / 2. a against c: both say a, b against c: b, then b.
    record = ranking(ranks=(2.0, 1.0, 3.0), annotator_ranks=((2.0, 1.0, 3.0), (1.0, 1.0, 2.0)))
    assert [pair.second_preference for pair in record.pairs()] == [0.75, 0.0, 0.0]


def test_ratings_give_each_pair_a_choice_per_dimension() -> None:
    record = ranking(ratings={"alignment": (5.0, 5.0, 2.0)})
    assert [pair.dimensions["alignment"] for pair in record.pairs()] == ["tie", "first", "first"]


def test_another_order_of_two_swaps_every_label() -> None:
    record = ComparisonRecord(
        "r", "p", media("a", "b"), choice="first", second_preference=0.2, dimensions={"structure": "second"}
    )
    swapped = record.reordered((1, 0))
    assert [one.path.name for one in swapped.candidates] == ["b.png", "a.png"]
    assert (swapped.choice, swapped.second_preference, swapped.dimensions) == ("second", 0.8, {"structure": "first"})
    assert swapped.pair(0, 1) == record.pair(0, 1).swapped()


def test_another_order_of_a_ranking_moves_ranks_and_ratings_along() -> None:
    record = ranking(ranks=(3.0, 1.0, 2.0), annotator_ranks=((3.0, 1.0, 2.0),), ratings={"fidelity": (1.0, 9.0, 5.0)})
    moved = record.reordered((2, 0, 1))
    assert [one.path.name for one in moved.candidates] == ["c.png", "a.png", "b.png"]
    assert (moved.ranks, moved.annotator_ranks, moved.ratings) == (
        (2.0, 3.0, 1.0),
        ((2.0, 3.0, 1.0),),
        {"fidelity": (5.0, 1.0, 9.0)},
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": media("a"), "ranks": (1.0,)}, "two or more"),
        ({"ranks": (1.0, 2.0)}, "one rank"),
        ({"ranks": (1.0, 2.0, float("nan"))}, "not finite"),
        ({"choice": "first", "ranks": None}, "for two candidates"),
        ({"confidence": 1.5}, r"\[0, 1\]"),
        ({"weight": 0.0}, "weight"),
        ({"ratings": {"x": (1.0, 2.0)}}, "one rank or rating"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ranking(**changes)
