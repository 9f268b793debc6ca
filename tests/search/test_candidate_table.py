import json
from pathlib import Path

import pytest

from rewarddance.core.errors import DataError
from rewarddance.search.candidate_table import read_candidates

CANDIDATE = {"seed": 0, "reward": 0.5, "wins": None, "picture": None}


def search_folder(folder: Path, *rows: object) -> Path:
    (folder / "settings.json").write_text('{"algorithm": "best-of-n"}')
    (folder / "summary.json").write_text("{}")
    (folder / "candidates").mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_table_has_a_row_for_each_prompt(tmp_path: Path):
    rows = [{"prompt": prompt, "candidates": [CANDIDATE] * 4} for prompt in ("a", "b")]
    table = read_candidates(search_folder(tmp_path, *rows))
    assert table.prompts == ("a", "b")
    assert table.rewards.tolist() == [[0.5] * 4] * 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"candidates": []}, "line 2, has no prompt;"),
        ({"prompt": "b"}, "line 2, has no candidates;"),
        ({"prompt": "b", "candidates": [{"wins": None, "picture": None}]}, r"line 2, has no candidates\.0\.reward;"),
        ({"prompt": "b", "candidates": [{**CANDIDATE, "reward": "x"}]}, r"line 2, has no usable candidates\.0\.reward"),
        ("b", "line 2, does not hold named values;"),
    ],
)
def test_a_row_that_lacks_something_is_named_with_its_line(row: object, said: str, tmp_path: Path):
    folder = search_folder(tmp_path, {"prompt": "a", "candidates": [CANDIDATE] * 4}, row)
    with pytest.raises(DataError, match=f"rows.jsonl, {said}"):
        read_candidates(folder)
