from pathlib import Path

import pytest
from PIL import Image

from rewarddance.core.errors import DataError
from rewarddance.core.types import Media
from rewarddance.data.comparisons import ComparisonSet, write_comparisons
from rewarddance.data.rationale_writing import write_with_rationales
from rewarddance.data.records import ComparisonRecord


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    media = []
    for number in range(3):
        path = tmp_path / "in" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
        media.append(Media(path))
    records = [
        ComparisonRecord("pair", "a cat", (media[0], media[1]), choice="second", split="train", weight=2.0),
        ComparisonRecord("ranked", "a dog", tuple(media), ranks=(1.0, 2.0, 3.0), split="test"),
    ]
    write_comparisons(tmp_path / "in", records)
    return tmp_path


def test_comparisons_keep_everything_and_gain_their_rationale(folder: Path):
    before = ComparisonSet.open(folder / "in")

    written = write_with_rationales(before, {"pair": "image 2 is red"}, folder / "out")

    after = {one.id: one for one in ComparisonSet.open(folder / "out")}
    assert written == 4
    assert after["pair"].rationale == "image 2 is red"
    assert after["ranked#0-1"].rationale is None
    for one in before:
        assert (after[one.id].choice, after[one.id].weight) == (one.choice, one.weight)
        assert after[one.id].first.path.resolve() == one.first.path.resolve()


def test_a_rationale_that_was_there_before_does_not_come_back(folder: Path):
    write_with_rationales(ComparisonSet.open(folder / "in"), {"pair": "image 2 is better"}, folder / "before")

    write_with_rationales(ComparisonSet.open(folder / "before"), {}, folder / "out")

    assert [one.rationale for one in ComparisonSet.open(folder / "out")] == [None] * 4


def test_pairs_of_a_ranking_keep_its_split_and_group(folder: Path):
    write_with_rationales(ComparisonSet.open(folder / "in"), {"ranked#0-2": "image 1 is black"}, folder / "out")

    test = ComparisonSet.open(folder / "out").select(split="test")
    assert [one.id for one in test] == ["ranked#0-1", "ranked#0-2", "ranked#1-2"]
    assert {one.group_id for one in test} == {"ranked"}


def test_comparisons_without_a_rationale_can_be_left_out(folder: Path):
    comparisons = ComparisonSet.open(folder / "in")

    written = write_with_rationales(comparisons, {"pair": "image 2 is red"}, folder / "out", only_with_rationale=True)

    assert written == 1


def test_nothing_to_write_is_an_error_and_no_folder_of_nothing(folder: Path):
    with pytest.raises(DataError):
        write_with_rationales(ComparisonSet.open(folder / "in"), {}, folder / "out", only_with_rationale=True)
