from pathlib import Path

import pytest

from rewarddance.core.errors import DataError
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.data.importing import import_source
from rewarddance.data.rows import PublishedRow, RawRow
from rewarddance.data.sources.hpdv3 import parse_row
from tests.data.published import hpdv3_row, write_hpdv3


def parsed(**changes: object) -> PublishedRow:
    return parse_row(RawRow(0, hpdv3_row(0, **changes)))


def test_path1_is_chosen_and_the_votes_are_the_soft_label() -> None:
    record = parsed().record
    assert (record.choice, record.confidence) == ("first", 0.97)
    assert record.second_preference == 0.25  # 3 of 9 + 3 votes
    assert [media.generator for media in record.candidates] == ["flux", "kolors"]


def test_votes_and_confidence_may_be_null_or_absent() -> None:
    row = hpdv3_row(0, choice_dist=None, confidence=None)
    assert parse_row(RawRow(0, row)).record.second_preference is None
    del row["choice_dist"], row["confidence"], row["model1"], row["model2"]
    assert parse_row(RawRow(0, row)).record.confidence is None


def test_votes_against_path1_are_left_out_and_noted() -> None:
    published = parsed(choice_dist=[2, 5])
    assert (published.record.choice, published.record.second_preference) == ("first", None)
    assert published.notes == ("choice_dist contradicts path1, soft label left out",)


@pytest.mark.parametrize("name", ["prompt", "path1", "path2"])
def test_a_missing_field_is_named(name: str) -> None:
    row = hpdv3_row(0)
    del row[name]
    with pytest.raises(DataError, match=f"there is no field '{name}'"):
        parse_row(RawRow(0, row))
    with pytest.raises(DataError, match=f"field '{name}' is null"):
        parse_row(RawRow(0, {**row, name: None}))


def test_train_and_test_lists_of_a_folder_become_splits(tmp_path: Path) -> None:
    write_hpdv3(tmp_path, [hpdv3_row(0), hpdv3_row(1)], "train")
    write_hpdv3(tmp_path, [hpdv3_row(2)], "test")
    write_hpdv3(tmp_path, [hpdv3_row(number) for number in range(3)], "all")
    import_source("hpdv3", tmp_path, tmp_path / "out")
    comparisons = ComparisonSet.open(tmp_path / "out")
    assert comparisons.splits == ("test", "train")
    (test,) = comparisons.select(split="test")
    assert (test.prompt, test.origin, test.source) == ("prompt number 2", "test.json#0", "hpdv3")


def test_one_split_or_one_file_can_be_read_alone(tmp_path: Path) -> None:
    for split, number in (("train", 0), ("test", 1), ("all", 2)):
        write_hpdv3(tmp_path, [hpdv3_row(number)], split)
    import_source("hpdv3", tmp_path, tmp_path / "a", split="all")
    assert ComparisonSet.open(tmp_path / "a").splits == ("all",)
    import_source("hpdv3", tmp_path / "test.json", tmp_path / "b")
    assert ComparisonSet.open(tmp_path / "b").splits == ("test",)


def test_pairs_of_one_prompt_share_a_group(tmp_path: Path) -> None:
    write_hpdv3(tmp_path, [hpdv3_row(0, prompt="A cat."), hpdv3_row(1, prompt="a cat"), hpdv3_row(2, prompt="a dog")])
    import_source("hpdv3", tmp_path, tmp_path / "out")
    groups = [pair.group_id for pair in ComparisonSet.open(tmp_path / "out")]
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ('{"prompt": "p"}', "not a JSON list"),
        ('[{"prompt": "p"', "not valid JSON after 0 rows"),
    ],
)
def test_a_list_that_breaks_off_gives_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "train.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        import_source("hpdv3", tmp_path, tmp_path / "out")
