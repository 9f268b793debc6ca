from pathlib import Path

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.core.types import Comparison, Media
from rewarddance.data.records import ComparisonRecord
from rewarddance.data.reference_sets import with_reference_sets
from rewarddance.data.storage import record_to_row, row_to_record


def ranked(prompt: str, count: int = 4) -> tuple[Comparison, ...]:
    """All pairs of a ranking in which medium 0 is best."""
    media = tuple(Media(Path(f"/{prompt}-{place}.png")) for place in range(count))
    return ComparisonRecord(prompt, prompt, media, ranks=tuple(range(count))).pairs()


def place_of(media: Media) -> int:
    return int(media.path.stem.split("-")[1])


def sets_of(comparisons: tuple[Comparison, ...], *sizes: int, seed: int = 0) -> list[Comparison]:
    return with_reference_sets(comparisons, sizes, seed)[len(comparisons) :]


def test_every_medium_meets_a_set_of_every_size():
    sets = sets_of(ranked("a cat"), 2, 3)
    made = [(len(one.beside_first) + 1, place_of(one.second)) for one in sets]
    assert sorted(made) == [(size, place) for size in (2, 3) for place in range(4)]


def test_the_target_is_the_share_of_references_that_the_candidate_beats():
    for one in sets_of(ranked("a cat"), 2, 3):
        references = [place_of(media) for media in (one.first, *one.beside_first)]
        beaten = sum(place_of(one.second) < place for place in references)
        assert one.target == pytest.approx(beaten / len(references))


def test_no_reference_stands_in_a_set_twice_or_beside_itself():
    for one in sets_of(ranked("a cat"), 3):
        shown = [media.path for media in (one.first, *one.beside_first, one.second)]
        assert len(set(shown)) == len(shown)


def test_the_comparisons_of_two_come_first_and_as_they_are():
    comparisons = ranked("a cat")
    assert with_reference_sets(comparisons, [2], 0)[: len(comparisons)] == list(comparisons)


def test_a_set_turned_round_is_the_other_order_of_its_question():
    one = sets_of(ranked("a cat"), 2)[0]
    turned = one.swapped()
    assert (turned.first, turned.beside_second) == (one.second, one.beside_first)
    assert turned.target == pytest.approx(1 - one.target)
    assert turned.swapped() == one


def test_media_of_other_prompts_never_meet():
    sets = sets_of((*ranked("a cat"), *ranked("a dog")), 2)
    for one in sets:
        assert {media.path.stem.split("-")[0] for media in (one.first, *one.beside_first)} == {one.prompt}


def test_the_seed_decides_the_sets_and_nothing_else_does():
    alone, beside = ranked("a cat", 6), (*ranked("a dog"), *ranked("a cat", 6))
    chosen = {one.second.path: one.beside_first for one in sets_of(alone, 2)}
    again = {one.second.path: one.beside_first for one in sets_of(beside, 2) if one.prompt == "a cat"}
    assert chosen == again
    assert chosen != {one.second.path: one.beside_first for one in sets_of(alone, 2, seed=1)}


def test_ids_are_all_different():
    comparisons = (*ranked("a cat"), *ranked("a dog"))
    ids = [one.id for one in with_reference_sets(comparisons, [2, 3], 0)]
    assert len(set(ids)) == len(ids) == 12 + 16


def test_what_is_not_judged_makes_no_set():
    media = tuple(Media(Path(f"/x-{place}.png")) for place in range(4))
    judged = ComparisonRecord("x", "a cat", media[:3], ranks=(0, 1, 2)).pairs()
    open_ones = ComparisonRecord("y", "a cat", media).pairs()
    shown = {m.path.stem for one in sets_of((*judged, *open_ones), 2) for m in (one.first, *one.beside_first)}
    assert shown == {"x-0", "x-1", "x-2"}


def test_pairs_alone_make_no_set():
    with pytest.raises(UsageError, match="no medium was compared with 2 others"):
        with_reference_sets(ranked("a cat", 2), [2], 0)


def test_a_set_has_at_least_two():
    with pytest.raises(UsageError, match="at least 2 images, not 1"):
        with_reference_sets(ranked("a cat"), [1], 0)


def test_a_file_of_criteria_is_found_from_the_data_sets_folder(tmp_path: Path):
    media = (Media(Path("a.png")), Media(Path("b.png")))
    for named, found in (("own.yaml", tmp_path / "own.yaml"), ("overall", "overall"), (None, None)):
        row = record_to_row(ComparisonRecord("a", "p", media, instruction=named))
        assert row_to_record(row, tmp_path).instruction == found
