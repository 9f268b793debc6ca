import hashlib
from pathlib import Path

import pytest

from rewarddance.core.errors import DataError
from rewarddance.core.types import Comparison
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.data.importing import import_source
from tests.data.published import pickapic_row, picture_bytes, write_pickapic


def imported(tmp_path: Path, rows: list[dict[str, object]]) -> list[Comparison]:
    import_source("pickapic", write_pickapic(tmp_path / "p", rows), tmp_path / "out", max_bad_share=0.5)
    return list(ComparisonSet.open(tmp_path / "out"))


def test_labels_ties_and_weights_are_read_in_the_shown_order(tmp_path: Path) -> None:
    first, second, tie = imported(
        tmp_path,
        [
            pickapic_row(0),
            pickapic_row(1, label_0=0.0, label_1=1.0, num_example_per_prompt=1),
            pickapic_row(2, label_0=0.5, label_1=0.5),
        ],
    )
    assert (first.choice, first.target, first.weight) == ("first", 0.0, 0.25)
    assert (second.choice, second.target, second.weight) == ("second", 1.0, 1.0)
    assert (tie.choice, tie.target) == ("tie", 0.5)
    assert (first.first.generator, first.second.generator) == ("sdxl", "sd2")
    assert (first.id, first.origin) == ("pickapic-1000", "validation-00000-of-00001-abc.parquet#0")


def test_embedded_images_are_written_under_their_hash(tmp_path: Path) -> None:
    (pair,) = imported(tmp_path, [pickapic_row(0)])
    digest = hashlib.sha256(picture_bytes(0)).hexdigest()
    assert pair.first.path == tmp_path / "out/media" / digest[:2] / f"{digest}.jpg"
    assert pair.first.path.read_bytes() == picture_bytes(0)
    assert pair.first.sha256 == digest


def test_an_image_in_two_rows_is_written_once(tmp_path: Path) -> None:
    imported(tmp_path, [pickapic_row(0), pickapic_row(1, jpg_0=picture_bytes(0))])
    assert len([path for path in (tmp_path / "out/media").rglob("*") if path.is_file()]) == 3


def test_rows_without_a_label_are_skipped_and_counted_and_not_bad(tmp_path: Path) -> None:
    rows = [pickapic_row(0), *(pickapic_row(number, has_label=False) for number in range(1, 5))]
    report = import_source("pickapic", write_pickapic(tmp_path / "p", rows), tmp_path / "out")
    assert (report.records, report.bad_rows) == (1, 0)
    assert report.skipped == {"has_label is false": 4}


def test_a_broken_embedded_image_is_listed_by_its_uid(tmp_path: Path) -> None:
    rows = [pickapic_row(number) for number in range(30)]
    rows[3]["jpg_1"] = b"<html></html>"
    rows[4]["jpg_0"] = None
    report = import_source("pickapic", write_pickapic(tmp_path / "p", rows), tmp_path / "out", max_bad_share=0.1)
    assert [(problem.reason, problem.name) for problem in report.problems[:1]] == [("unreadable", "u3b.jpg")]
    assert "field 'jpg_0' holds no image" in report.problems[1].message


def test_labels_that_do_not_add_up_are_bad(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels 0 and 0 do not add up to 1"):
        imported(tmp_path, [pickapic_row(0, label_0=0.0, label_1=0.0)])


def test_a_file_without_images_names_the_columns(tmp_path: Path) -> None:
    row = pickapic_row(0)
    del row["jpg_0"], row["jpg_1"]
    with pytest.raises(DataError, match="columns are missing: jpg_0, jpg_1"):
        imported(tmp_path, [row])


def test_the_split_comes_from_the_file_name(tmp_path: Path) -> None:
    for number, split in enumerate(("test", "test_unique")):
        write_pickapic(tmp_path / "p", [pickapic_row(number)], split)
    import_source("pickapic", tmp_path / "p", tmp_path / "out")
    comparisons = ComparisonSet.open(tmp_path / "out")
    assert [len(comparisons.select(split=name)) for name in ("test", "test_unique")] == [1, 1]
