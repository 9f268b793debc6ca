import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rewarddance.core.errors import DataError
from rewarddance.core.types import Comparison
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.data.importing import import_source
from tests.data.published import write_imagerewarddb, write_picture


def in_order(pairs: list[Comparison]) -> dict[str, Comparison]:
    """Pairs by the names of their media, the lower name first."""
    sorted_pairs = [pair if pair.first.path.stem < pair.second.path.stem else pair.swapped() for pair in pairs]
    return {pair.first.path.stem + pair.second.path.stem: pair for pair in sorted_pairs}


def test_rows_are_grouped_by_prompt_and_rank_one_is_best(tmp_path: Path) -> None:
    report = import_source("imagerewarddb", write_imagerewarddb(tmp_path / "i"), tmp_path / "out")
    pairs = in_order(list(ComparisonSet.open(tmp_path / "out")))
    # p1 has images 0, 2, 4 of ranks 3, 1, 1; p2 has images 1, 3 of ranks 1, 2.
    assert {name: pair.choice for name, pair in pairs.items()} == {
        "02": "second",
        "04": "second",
        "24": "tie",
        "13": "first",
    }
    assert {pair.group_id for pair in pairs.values()} == {"p1", "p2"}
    assert report.skipped == {"only one image of the prompt": 1}
    assert report.bad_rows == 0


def test_ratings_become_choices_per_dimension(tmp_path: Path) -> None:
    import_source("imagerewarddb", write_imagerewarddb(tmp_path / "i"), tmp_path / "out")
    pairs = in_order(list(ComparisonSet.open(tmp_path / "out").select(dimension="alignment")))
    # Alignment of images 0, 2, 4 is 5, 5, 3.
    assert [pairs[name].choice for name in ("02", "04", "24")] == ["tie", "first", "first"]


def test_the_repositorys_json_is_read_too(tmp_path: Path) -> None:
    names = [f"part-000001/images/0001/{letter}.webp" for letter in "abc"]
    for number, name in enumerate(names):
        write_picture(tmp_path / name, number)
    row = {"id": "000001-0001", "prompt": "p", "generations": names, "ranking": [1, 2, 2]}
    (tmp_path / "test.json").write_text(json.dumps([row]), encoding="utf-8")
    import_source("imagerewarddb", tmp_path / "test.json", tmp_path / "out")
    pairs = in_order(list(ComparisonSet.open(tmp_path / "out")))
    assert {name: pair.choice for name, pair in pairs.items()} == {"ab": "first", "ac": "first", "bc": "tie"}


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["p"], "image_path": ["a"]}), tmp_path / "metadata-train.parquet")
    with pytest.raises(DataError, match="columns are missing: prompt_id, rank"):
        import_source("imagerewarddb", tmp_path, tmp_path / "out")
