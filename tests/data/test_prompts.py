from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rewarddance.core.errors import DataError
from rewarddance.data.prompts import read_prompts


def test_text_json_lines_and_parquet_give_the_same_prompts(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\n\n  a dog \n", encoding="utf-8")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat"}\n{"prompt": "a dog"}\n', encoding="utf-8")
    pq.write_table(pa.table({"prompt": ["a cat", "a dog"]}), tmp_path / "p.parquet")
    lists = [read_prompts(tmp_path / f"p.{kind}") for kind in ("txt", "jsonl", "parquet")]
    assert lists[0] == lists[1] == lists[2]
    assert [(item.id, item.prompt) for item in lists[0]] == [("000000", "a cat"), ("000001", "a dog")]


@pytest.mark.parametrize(("kind", "line"), [("txt", "{}"), ("jsonl", '{{"prompt": "{}"}}')])
def test_a_unicode_line_separator_is_part_of_the_prompt(tmp_path: Path, kind: str, line: str) -> None:
    (tmp_path / f"p.{kind}").write_text(line.format("a cat\u2028a dog") + "\n", encoding="utf-8")
    assert [item.prompt for item in read_prompts(tmp_path / f"p.{kind}")] == ["a cat\u2028a dog"]


@pytest.mark.parametrize(("kind", "line"), [("txt", "{}"), ("jsonl", '{{"prompt": "{}"}}')])
def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path, kind: str, line: str) -> None:
    (tmp_path / f"p.{kind}").write_text(line.format("a cat") + "\n", encoding="utf-8-sig")
    assert [item.prompt for item in read_prompts(tmp_path / f"p.{kind}")] == ["a cat"]


def test_own_ids_are_kept(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat", "id": 7}\n', encoding="utf-8")
    assert read_prompts(tmp_path / "p.jsonl")[0].id == "7"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"\n \n", "holds no prompts"),
        ("p.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("p.csv", b"prompt\n", "ends in"),
        ("p.jsonl", b'{"prompt": "a"}\n{broken\n', "line 2 is not JSON"),
        ("p.jsonl", b'{"text": "a"}\n', "line 1 has no field 'prompt'"),
        ("p.jsonl", b'{"prompt": "a"}\n\n{"prompt": "\\ud800"}\n', "line 3 holds half a character"),
        ("p.jsonl", b'{"prompt": "a", "id": "\\udfff"}\n', "line 1 holds half a character"),
        ("p.jsonl", b'{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 1}\n', "same id"),
        ("p.parquet", b"nothing", "not a parquet file"),
    ],
)
def test_a_list_that_cannot_be_read_gives_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path / name)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_prompts(tmp_path / "p.txt")


def test_an_id_that_is_an_impossible_date_is_one_line(tmp_path: Path) -> None:
    dates = pa.array([2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"prompt": ["a"], "id": dates}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="dates that are out of range"):
        read_prompts(tmp_path / "p.parquet")
