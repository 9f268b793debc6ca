from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rewarddance.core.errors import DataError
from rewarddance.core.types import Media
from rewarddance.data.comparisons import PARQUET_NAME, ComparisonSet, write_comparisons
from rewarddance.data.records import ComparisonRecord


def record(**changes: object) -> ComparisonRecord:
    media = (Media(Path("a.png")), Media(Path("b.png")))
    plain = ComparisonRecord("r", "a cube", media, choice="second", rationale="Image 2 shows the cube.")
    return replace(plain, **changes)


def test_a_rationale_comes_back_from_disk(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [record(), record(id="s", rationale=None)])
    assert [one.rationale for one in ComparisonSet.open(tmp_path)] == ["Image 2 shows the cube.", None]


def test_a_file_from_before_there_were_rationales_is_read(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [record()])
    file = tmp_path / PARQUET_NAME
    pq.write_table(pq.read_table(file).drop_columns(["rationale"]), file)
    assert ComparisonSet.open(tmp_path)[0].rationale is None


def test_a_reordered_record_calls_its_media_by_their_new_numbers() -> None:
    assert record().reordered((1, 0)).rationale == "Image 1 shows the cube."


def test_a_rationale_that_cannot_change_places_is_left_out_where_the_media_do() -> None:
    doubtful = record(rationale="Image 2 shows the cube, 1 does not.")
    assert doubtful.reordered((1, 0)).rationale is None
    assert doubtful.reordered((0, 1)).rationale == doubtful.rationale


def test_a_rationale_is_about_two_candidates() -> None:
    media = tuple(Media(Path(f"{name}.png")) for name in "abc")
    with pytest.raises(DataError, match="rationale is about two"):
        ComparisonRecord("r", "a cube", media, ranks=(1.0, 2.0, 3.0), rationale="Image 1 is best.")


def test_the_choice_of_one_dimension_has_no_rationale(tmp_path: Path) -> None:
    # The rationale is for "second"; in structure the first was chosen.
    write_comparisons(tmp_path, [record(dimensions={"structure": "first"})])
    (one,) = ComparisonSet.open(tmp_path).select(dimension="structure")
    assert (one.choice, one.rationale) == ("first", None)
