import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rewarddance.core.errors import DataError
from rewarddance.core.types import Media
from rewarddance.data.comparisons import ComparisonSet, write_comparisons
from rewarddance.data.records import ComparisonRecord
from rewarddance.data.storage import SCHEMA, VERSION_KEY


def full_record() -> ComparisonRecord:
    return ComparisonRecord(
        id="r1",
        prompt="ein Fuß ☃",
        candidates=(
            Media(Path("media/a.mp4"), "clip", "wan", 16, 8.0, "aa"),
            Media(Path("media/b.mp4"), "clip", "ltx", 24, 12.0, "bb"),
        ),
        choice="tie",
        second_preference=0.5,
        dimensions={"structure": "second", "motion": "tie"},
        instruction="overall",
        source_media=Media(Path("media/s.png")),
        confidence=0.9,
        weight=0.25,
        group_id="g",
        split="train",
        source="mine",
        origin="mine.jsonl#0",
    )


def ranking(number: int, split: str = "test") -> ComparisonRecord:
    candidates = tuple(Media(Path(f"media/{number}-{index}.png")) for index in range(4))
    return ComparisonRecord(f"n{number}", "p", candidates, ranks=(1.0, 2.0, 2.0, 3.0), split=split, source="ranked")


def test_every_field_comes_back_with_absolute_paths(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [full_record()])
    (found,) = ComparisonSet.open(tmp_path)
    wanted = full_record().pair(0, 1)
    assert found.first.path == tmp_path / "media/a.mp4"
    assert found.source_media is not None and found.source_media.path == tmp_path / "media/s.png"
    for name in ("id", "prompt", "choice", "second_preference", "dimensions", "instruction", "confidence", "weight"):
        assert getattr(found, name) == getattr(wanted, name)
    for name in ("kind", "generator", "frames", "fps", "sha256"):
        assert getattr(found.second, name) == getattr(wanted.second, name)
    assert (found.group_id, found.source, found.origin) == ("g", "mine", "mine.jsonl#0")


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [full_record(), ranking(1)])
    records = list(ComparisonSet.open(tmp_path).records())
    assert [record.id for record in records] == ["r1", "n1"]
    assert records[1].ranks == (1.0, 2.0, 2.0, 3.0)


def test_rankings_are_expanded_in_order(tmp_path: Path) -> None:
    # 1 + 6 + 1 pairs.
    assert write_comparisons(tmp_path, [full_record(), ranking(1), full_record()]) == 8
    comparisons = ComparisonSet.open(tmp_path)
    assert len(comparisons) == 8
    ids = [one.id for one in comparisons]
    assert ids == ["r1", "n1#0-1", "n1#0-2", "n1#0-3", "n1#1-2", "n1#1-3", "n1#2-3", "r1"]
    assert [comparisons[index].id for index in range(8)] == ids
    assert comparisons[-1].id == "r1"
    assert [one.id for one in comparisons[1:3]] == ["n1#0-1", "n1#0-2"]
    assert [one.choice for one in comparisons[1:7]] == ["first", "first", "first", "tie", "first", "first"]


def test_reading_by_index_and_in_order_agree_over_blocks(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [ranking(number) for number in range(600)])
    comparisons = ComparisonSet.open(tmp_path)
    listed = list(comparisons)
    assert len(listed) == 3600
    assert all(comparisons[index] == listed[index] for index in (0, 3071, 3072, 3599))


def test_a_set_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [full_record()])
    assert pickle.loads(pickle.dumps(ComparisonSet.open(tmp_path)))[0].id == "r1"


def test_absolute_media_paths_are_stored_relative(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    candidates = (Media(tmp_path / "set/media/a.png"), Media(tmp_path / "elsewhere/b.png"))
    write_comparisons(folder, [ComparisonRecord("r", "p", candidates, choice="first")])
    (row,) = pq.read_table(folder / "comparisons.parquet").to_pylist()
    assert [media["path"] for media in row["candidates"]] == ["media/a.png", "../elsewhere/b.png"]
    assert ComparisonSet.open(folder)[0].second.path.resolve() == tmp_path / "elsewhere/b.png"


def test_selecting_by_split_source_and_dimension(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [full_record(), ranking(1)])
    comparisons = ComparisonSet.open(tmp_path)
    assert comparisons.splits == ("test", "train")
    assert len(comparisons.select(split="test")) == 6
    assert len(comparisons.select(source="mine")) == 1
    (structure,) = comparisons.select(dimension="structure")
    assert (structure.choice, structure.second_preference) == ("second", None)


def test_a_selection_of_nothing_names_what_there_is(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [full_record(), ranking(1)])
    with pytest.raises(DataError, match="no comparisons with split 'dev'; there are: test, train"):
        ComparisonSet.open(tmp_path).select(split="dev")
    with pytest.raises(DataError, match="there are: motion, structure"):
        ComparisonSet.open(tmp_path).select(dimension="colour")


def test_the_folder_says_what_it_holds(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [full_record(), ranking(1)])
    said = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
    assert said["comparisons"] == 7
    assert said["splits"] == {"test": 6, "train": 1}
    assert said["dimensions"] == ["motion", "structure"]


def test_a_writer_that_fails_leaves_the_old_comparisons(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [full_record()])

    def failing() -> object:
        yield ranking(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_comparisons(tmp_path, failing())
    assert len(ComparisonSet.open(tmp_path)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparisons.parquet", "dataset.json"]


def test_no_records_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no comparisons to write"):
        write_comparisons(tmp_path, [])


def test_files_that_are_no_comparisons_give_one_line_each(tmp_path: Path) -> None:
    file = tmp_path / "comparisons.parquet"
    with pytest.raises(DataError, match="no such file"):
        ComparisonSet.open(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        ComparisonSet.open(tmp_path)
    file.write_bytes(b"PAR1 or so")
    with pytest.raises(DataError, match="not a parquet file"):
        ComparisonSet.open(file)
    pq.write_table(pa.table({"prompt": ["p"]}), file)
    with pytest.raises(DataError, match="columns are missing: id, candidates"):
        ComparisonSet.open(tmp_path)
    pq.write_table(SCHEMA.empty_table(), file)
    with pytest.raises(DataError, match="holds no comparisons"):
        ComparisonSet.open(tmp_path)


def test_a_column_of_another_type_is_an_error(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [full_record()])
    table = pq.read_table(tmp_path / "comparisons.parquet")
    index = table.column_names.index("candidates")
    pq.write_table(table.set_column(index, "candidates", pa.array(["x"])), tmp_path / "comparisons.parquet")
    with pytest.raises(DataError, match="another type"):
        ComparisonSet.open(tmp_path)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [full_record()])
    file = tmp_path / "comparisons.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged"):
        ComparisonSet.open(tmp_path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    write_comparisons(tmp_path, [full_record()])
    file = tmp_path / "comparisons.parquet"
    pq.write_table(pq.read_table(file).replace_schema_metadata({VERSION_KEY: b"99"}), file)
    with pytest.raises(DataError, match="newer rewarddance"):
        ComparisonSet.open(tmp_path)
