import json
from pathlib import Path

import pytest

from rewarddance.core.errors import DataError
from rewarddance.data import row_files
from rewarddance.data.row_files import json_line_rows, json_rows
from rewarddance.data.rows import InputFile


def read(path: Path) -> list[dict[str, object]]:
    return [dict(row.fields) for row in json_rows(InputFile(path, "train", (path.parent,)))]


@pytest.mark.parametrize("chunk", [1, 7, 64, 4096])
def test_a_list_is_the_same_in_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(row_files, "_CHUNK_CHARACTERS", chunk)
    rows = [
        {"prompt": f'a "quoted" [{{☃}}] {number}', "choice_dist": [number, 1.5], "nested": {"x": None}}
        for number in range(9)
    ]
    for indent in (None, 2):
        (tmp_path / "a.json").write_text(json.dumps(rows, indent=indent), encoding="utf-8")
        assert read(tmp_path / "a.json") == rows


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}]', encoding="utf-8-sig")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n', encoding="utf-8-sig")
    assert read(tmp_path / "a.json") == [{"a": 1}]
    assert [dict(row.fields) for row in json_line_rows(InputFile(tmp_path / "a.jsonl", "train", ()))] == [{"a": 1}]


def test_an_element_that_is_no_object_is_a_row_with_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}, 7, "x", {"a": 2}]', encoding="utf-8")
    rows = list(json_rows(InputFile(tmp_path / "a.json", "train", ())))
    assert [row.problem is None for row in rows] == [True, False, False, True]


def test_a_list_that_breaks_off_says_after_which_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}, {"a": 2}, {"a"', encoding="utf-8")
    with pytest.raises(DataError, match="not valid JSON after 2 rows"):
        read(tmp_path / "a.json")


def test_an_empty_list_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" [ ] ", encoding="utf-8")
    assert read(tmp_path / "a.json") == []
