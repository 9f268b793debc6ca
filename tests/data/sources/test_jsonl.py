import json
from pathlib import Path

import pytest

from rewarddance.core.errors import DataError
from rewarddance.core.types import Comparison
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.data.importing import import_source
from tests.core.test_media import write_clip
from tests.data.published import write_picture


def folder_with_pictures(tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        write_picture(tmp_path / f"{name}.png", number)
    return tmp_path


def imported(tmp_path: Path, *rows: object) -> list[Comparison]:
    file = folder_with_pictures(tmp_path) / "mine.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    import_source("jsonl", file, tmp_path / "out", randomise_order=False)
    return list(ComparisonSet.open(tmp_path / "out"))


def test_the_smallest_row_is_enough(tmp_path: Path) -> None:
    (pair,) = imported(tmp_path, {"prompt": "p", "first": "a.png", "second": "b.png", "choice": "tie"})
    assert (pair.prompt, pair.choice, pair.first.path.name, pair.weight) == ("p", "tie", "a.png", 1.0)
    assert ComparisonSet.open(tmp_path / "out").splits == ("mine",)


def test_every_field_is_read(tmp_path: Path) -> None:
    row = {
        "id": "x",
        "prompt": "p",
        "instruction": "structure",
        "source_media": "c.png",
        "first": {"path": "a.png", "generator": "flux"},
        "second": "b.png",
        "second_generator": "kolors",
        "second_preference": 0.7,
        "dimensions": {"structure": "first"},
        "dimension.aesthetics": "tie",
        "confidence": 0.8,
        "weight": 2,
        "group_id": "g",
        "split": "train",
    }
    (pair,) = imported(tmp_path, row)
    assert (pair.id, pair.choice, pair.second_preference) == ("jsonl-x", "second", 0.7)
    assert pair.dimensions == {"structure": "first", "aesthetics": "tie"}
    assert (pair.first.generator, pair.second.generator) == ("flux", "kolors")
    assert pair.source_media is not None and pair.source_media.path.name == "c.png"
    assert (pair.instruction, pair.confidence, pair.weight, pair.group_id) == ("structure", 0.8, 2.0, "g")


def test_a_ranking_is_read(tmp_path: Path) -> None:
    pairs = imported(tmp_path, {"prompt": "p", "candidates": ["a.png", "b.png", "c.png"], "ranks": [1, 2, 2]})
    assert [pair.choice for pair in pairs] == ["first", "first", "tie"]


def test_csv_with_the_same_names_is_read(tmp_path: Path) -> None:
    file = folder_with_pictures(tmp_path) / "mine.csv"
    file.write_text(
        "prompt,first,second,choice,weight,dimension.structure\n"
        '"p, q",a.png,b.png,second,0.5,first\n'
        "r,b.png,c.png,tie,,\n",
        encoding="utf-8",
    )
    import_source("jsonl", file, tmp_path / "out", randomise_order=False)
    one, two = ComparisonSet.open(tmp_path / "out")
    assert (one.prompt, one.choice, one.weight, one.dimensions) == ("p, q", "second", 0.5, {"structure": "first"})
    assert (two.choice, two.weight) == ("tie", 1.0)


def test_clips_carry_their_frames_and_rate(tmp_path: Path) -> None:
    write_clip(tmp_path / "v.mp4")
    write_clip(tmp_path / "w.mp4", frames=8)
    (pair,) = imported(tmp_path, {"prompt": "p", "first": "v.mp4", "second": "w.mp4", "choice": "first"})
    assert (pair.first.kind, pair.first.frames, pair.first.fps) == ("clip", 12, 8.0)
    assert pair.second.frames == 8


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "first": "a.png", "second": "b.png"}, "there is no field 'choice'"),
        ({"prompt": "p", "first": "a.png", "choice": "tie"}, "field 'second' is null"),
        ({"prompt": "p", "first": "a.png", "second": "b.png", "choice": "left"}, "'left'; it is first, second or tie"),
        ({"prompt": "p", "first": "a.png", "second": "b.png", "second_preference": 2}, r"lie in \[0, 1\]"),
        ({"prompt": "p", "candidates": ["a.png"], "ranks": [1]}, "two or more"),
        ("text", "not a JSON object"),
        ({"prompt": "p", "first": "../a.png", "second": "b.png", "choice": "tie"}, r"with '\.\.'"),
        ({"prompt": "p", "first": "a.png", "second": "C:\\b.png", "choice": "tie"}, "absolute"),
    ],
)
def test_a_row_that_does_not_fit_gives_one_line(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        imported(tmp_path, row)


def test_null_says_that_nobody_has_judged(tmp_path: Path) -> None:
    (pair,) = imported(tmp_path, {"prompt": "p", "first": "a.png", "second": "b.png", "choice": None})
    assert (pair.choice, pair.target) == (None, None)


def test_a_line_that_is_not_json_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "p", "first": "a.png", "second": "b.png", "choice": "first"})
    file = folder_with_pictures(tmp_path) / "mine.jsonl"
    file.write_text(f"{row}\n{{broken\n", encoding="utf-8")
    report = import_source("jsonl", file, tmp_path / "out", max_bad_share=0.5)
    assert (report.records, report.bad) == (1, {"malformed_row": 1})
    assert report.problems[0].message == "mine.jsonl row 1: the line is not JSON"


def test_a_folder_or_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name it instead of the folder"):
        import_source("jsonl", tmp_path, tmp_path / "out")
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="ends in"):
        import_source("jsonl", tmp_path / "a.txt", tmp_path / "out")
