from pathlib import Path

import pytest

from rewarddance.core.errors import DataError
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.data.importing import import_source
from rewarddance.data.rows import RawRow
from rewarddance.data.sources.hpdv2 import parse_row
from tests.data.published import write_hpdv2

RANKING = {"prompt": "p", "image_path": ["a.jpg", "b.jpg", "c.jpg"], "rank": [2, 1, 3]}


def test_the_published_folder_is_read_field_for_field(tmp_path: Path) -> None:
    report = import_source("hpdv2", write_hpdv2(tmp_path / "h"), tmp_path / "out")
    assert (report.records, report.comparisons, report.bad_rows) == (3, 5, 0)
    comparisons = ComparisonSet.open(tmp_path / "out")
    chosen = {
        pair.prompt: (pair.first if pair.choice == "first" else pair.second).path.name
        for pair in comparisons.select(split="train")
    }
    assert chosen == {"a cat": "01.jpg", "a dog": "02.jpg"}


def test_a_ranking_becomes_pairs_with_ties_and_the_judges_shares(tmp_path: Path) -> None:
    import_source("hpdv2", write_hpdv2(tmp_path / "h"), tmp_path / "out")
    pairs = list(ComparisonSet.open(tmp_path / "out").select(split="test"))
    shares = {}
    for pair in pairs:
        names = (pair.first.path.stem, pair.second.path.stem)
        in_order = pair if names[0] < names[1] else pair.swapped()
        shares[in_order.first.path.stem + in_order.second.path.stem] = (in_order.choice, in_order.second_preference)
    # Ranks 2, 1, 2; judges 3, 1, 2 and 2, 1, 3: they disagree on a against c.
    assert shares == {"ab": ("second", 1.0), "ac": ("tie", 0.5), "bc": ("first", 0.0)}
    assert len({pair.group_id for pair in pairs}) == 1


def test_judges_that_contradict_the_rank_are_left_out_and_noted() -> None:
    published = parse_row(RawRow(0, {**RANKING, "raw_annotations": [{"rank": [1, 2, 3], "user_hash": "u"}]}))
    assert published.record.annotator_ranks == ()
    assert published.notes == ("raw_annotations contradict rank, soft label left out",)


def test_a_ranking_without_judges_is_read() -> None:
    assert parse_row(RawRow(0, RANKING)).record.ranks == (2.0, 1.0, 3.0)


@pytest.mark.parametrize("preference", [[1, 1], [0, 0], [1], [1, 0, 0]])
def test_a_pair_must_mark_one_image(preference: list[int]) -> None:
    row = {"prompt": "p", "file_path": ["a.jpg", "b.jpg"], "human_preference": preference}
    with pytest.raises(DataError, match="human_preference"):
        parse_row(RawRow(0, row))


def test_a_missing_field_is_named() -> None:
    with pytest.raises(DataError, match="there is no field 'rank'"):
        parse_row(RawRow(0, {"prompt": "p", "image_path": ["a.jpg", "b.jpg"]}))
    with pytest.raises(DataError, match="there is no field 'file_path'"):
        parse_row(RawRow(0, {"prompt": "p"}))


def test_a_ranking_goes_on_without_its_broken_image(tmp_path: Path) -> None:
    root = write_hpdv2(tmp_path / "h")
    (root / "test/b.jpg").write_bytes(b"")
    report = import_source("hpdv2", root, tmp_path / "out", split="test", max_bad_share=1.0)
    (pair,) = ComparisonSet.open(tmp_path / "out")
    assert {pair.first.path.name, pair.second.path.name} == {"a.jpg", "c.jpg"}
    assert pair.choice == "tie"
    assert report.bad == {"unreadable": 1}
