"""A folder of comparisons: `comparisons.parquet`, `dataset.json` beside it, media by relative path.

Written in one pass and visible only when whole; opened as a sequence of comparisons, in which records of more than
two candidates are expanded to pairs.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations, islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.files import errors_named, sync_folder, write_json_atomic
from rewarddance.core.types import Comparison, Media
from rewarddance.data.records import ComparisonRecord
from rewarddance.data.storage import LATER_COLUMNS, SCHEMA, SCHEMA_VERSION, VERSION_KEY, record_to_row, row_to_record

PARQUET_NAME = "comparisons.parquet"
DATASET_NAME = "dataset.json"

_ROW_GROUP = 10_000
_READ_ROWS = 512


@dataclass(slots=True)
class _Tally:
    """What `dataset.json` says about the records, counted while they pass."""

    records: int = 0
    comparisons: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    dimensions: set[str] = field(default_factory=set)

    def add(self, record: ComparisonRecord) -> None:
        self.records += 1
        self.comparisons += record.pair_count
        self.splits[record.split or ""] += record.pair_count
        self.sources[record.source or ""] += record.pair_count
        self.dimensions.update(record.dimensions, record.ratings)

    def to_json(self) -> dict[str, object]:
        return {
            "schema_version": SCHEMA_VERSION,
            "records": self.records,
            "comparisons": self.comparisons,
            "splits": dict(sorted(self.splits.items())),
            "sources": dict(sorted(self.sources.items())),
            "dimensions": sorted(self.dimensions),
        }


def refuse_to_replace(folder: Path, advice: str = "choose another folder") -> None:
    """Stop before comparisons are written where there are some already.

    Args:
        folder: Where they would go.
        advice: What the user can do.

    Raises:
        UsageError: The folder holds comparisons.
    """
    if any((folder / name).exists() for name in (PARQUET_NAME, DATASET_NAME)):
        raise UsageError(f"{folder}: holds comparisons already; {advice}")


def write_comparisons(folder: Path, records: Iterable[ComparisonRecord]) -> int:
    """Store records, in their order, without holding them in memory.

    Args:
        folder: Made when it is missing. Comparisons in it are replaced, in one moment, when all records are written.
        records: Media paths are absolute, or relative to the folder; they are stored relative to it.

    Returns:
        Number of comparisons, pairs of larger records counted.

    Raises:
        DataError: There are no records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{PARQUET_NAME}.partial"
    tally = _Tally()
    try:
        with errors_named(folder / PARQUET_NAME), pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
            stream = iter(records)
            while chunk := list(islice(stream, _ROW_GROUP)):
                for record in chunk:
                    tally.add(record)
                rows = [record_to_row(_with_relative_media(record, folder)) for record in chunk]
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        if tally.records == 0:
            raise DataError(f"{folder}: there are no comparisons to write")
        _sync(partial)
        partial.replace(folder / PARQUET_NAME)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(folder)
    write_json_atomic(folder / DATASET_NAME, tally.to_json())
    return tally.comparisons


class ComparisonSet(Sequence[Comparison]):
    """The comparisons of one parquet file; media paths are absolute.

    The columns stay in memory as Arrow holds them, and a comparison is built when it is asked for.
    """

    def __init__(self, folder: Path, table: Any, pairs: np.ndarray, dimension: str | None = None) -> None:
        self.folder = folder
        self.dimension = dimension
        self._table = table
        self._pairs = pairs  # (comparisons, 3): row of the table, index of the first and of the second candidate

    @classmethod
    def open(cls, path: Path | str) -> "ComparisonSet":
        """Open what `write_comparisons` or an import wrote.

        Args:
            path: The folder, or the parquet file in it.

        Raises:
            DataError: It is missing, empty, not parquet, of a newer version, or lacks columns.
        """
        given = Path(path)
        file = (given / PARQUET_NAME if given.is_dir() else given).absolute()
        table = _read_table(file)
        return cls(file.parent, table, _pairs_of(table))

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> Comparison: ...
    @overload
    def __getitem__(self, index: slice) -> list[Comparison]: ...
    def __getitem__(self, index: int | slice) -> Comparison | list[Comparison]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        row, first, second = (int(value) for value in self._pairs[index])
        record = row_to_record(self._table.slice(row, 1).to_pylist()[0], self.folder)
        return self._asked(record.pair(first, second))

    def __iter__(self) -> Iterator[Comparison]:
        # Rows are read in blocks: one by one they would take ten times as long.
        loaded, records = -1, list[ComparisonRecord]()
        for row, first, second in self._pairs.tolist():
            if row // _READ_ROWS != loaded:
                loaded = row // _READ_ROWS
                block = self._table.slice(loaded * _READ_ROWS, _READ_ROWS).to_pylist()
                records = [row_to_record(values, self.folder) for values in block]
            yield self._asked(records[row % _READ_ROWS].pair(first, second))

    def records(self) -> Iterator[ComparisonRecord]:
        """The stored records, larger ones unexpanded and with all their dimensions."""
        for start in range(0, self._table.num_rows, _READ_ROWS):
            for values in self._table.slice(start, _READ_ROWS).to_pylist():
                yield row_to_record(values, self.folder)

    def media(self) -> Iterator[Media]:
        """Every medium once, sources of edits included."""
        seen: set[Path] = set()
        for record in self.records():
            for media in (*record.candidates, *([record.source_media] if record.source_media else [])):
                if media.path not in seen:
                    seen.add(media.path)
                    yield media

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(sorted(name for name in pc.unique(self._table["split"]).to_pylist() if name is not None))

    def select(
        self, split: str | None = None, dimension: str | None = None, source: str | None = None
    ) -> "ComparisonSet":
        """The comparisons of one split, source or dimension.

        Args:
            split: Keep the records of this split.
            dimension: Keep what was judged in this dimension, and make it the choice; soft labels and rationales,
                which are about the whole, are dropped.
            source: Keep the records of this data set.

        Raises:
            DataError: Nothing is left; the message names what there is.
        """
        table = self._table
        for column, value in (("split", split), ("source", source)):
            if value is not None:
                kept = table.filter(pc.equal(table[column], value))
                table = (
                    kept if kept.num_rows else _refuse(self.folder, column, value, table[column].unique().to_pylist())
                )
        if dimension is not None:
            names = _dimension_names(table)
            mask = pa.array([dimension in row for row in names])
            kept = table.filter(mask)
            table = kept if kept.num_rows else _refuse(self.folder, "dimension", dimension, set().union(*names))
        return ComparisonSet(self.folder, table, _pairs_of(table), dimension or self.dimension)

    def prompts(self) -> list[str]:
        """The prompt of each comparison, without reading the rest."""
        texts = self._table["prompt"].to_pylist()
        return [texts[row] for row in self._pairs[:, 0]]

    def where(self, is_kept: Sequence[bool]) -> "ComparisonSet":
        """The comparisons for which `is_kept`, one value each, is true; perhaps none."""
        return ComparisonSet(self.folder, self._table, self._pairs[np.asarray(is_kept, dtype=bool)], self.dimension)

    def _asked(self, comparison: Comparison) -> Comparison:
        if self.dimension is None:
            return comparison
        choice = comparison.dimensions[self.dimension]
        return replace(comparison, choice=choice, second_preference=None, rationale=None)


def _read_table(file: Path) -> Any:
    if not file.is_file():
        raise DataError(f"{file}: no such file; `rewarddance import` writes one")
    if file.stat().st_size == 0:
        raise DataError(f"{file}: the file is empty; import the data again")
    try:
        table = pq.read_table(file, partitioning=None)
    except (pa.ArrowException, OSError):
        raise DataError(f"{file}: not a parquet file, or a damaged one; import the data again") from None
    for name in LATER_COLUMNS:
        if name not in table.column_names:
            field_of_name = SCHEMA.field(name)
            table = table.append_column(field_of_name, pa.nulls(table.num_rows, field_of_name.type))
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise DataError(f"{file}: not a comparison file, columns are missing: {', '.join(missing)}")
    version = (table.schema.metadata or {}).get(VERSION_KEY, b"").decode(errors="replace")
    if version.isdigit() and int(version) > SCHEMA_VERSION:
        raise DataError(f"{file}: written by a newer rewarddance (schema {version}, this one reads {SCHEMA_VERSION})")
    try:
        table = table.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, ValueError):
        raise DataError(f"{file}: a column has another type than in schema {SCHEMA_VERSION}") from None
    if table.num_rows == 0:
        raise DataError(f"{file}: holds no comparisons; import the data again")
    return table.combine_chunks()


def _pairs_of(table: Any) -> np.ndarray:
    """Row, first and second of every comparison, in the order of the rows."""
    counts = pc.list_value_length(table["candidates"]).to_numpy()
    blocks = []
    for count in np.unique(counts):
        indices = np.array(list(combinations(range(int(count)), 2)), dtype=np.int32).reshape(-1, 2)
        rows = np.flatnonzero(counts == count).astype(np.int32)
        blocks.append(np.column_stack([np.repeat(rows, len(indices)), np.tile(indices, (len(rows), 1))]))
    pairs = np.concatenate(blocks)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def _dimension_names(table: Any) -> list[set[str]]:
    columns = [table[name].to_pylist() for name in ("dimensions", "ratings")]
    return [{name for entries in row if entries for name, _ in entries} for row in zip(*columns, strict=True)]


def _refuse(folder: Path, what: str, value: str, known: Iterable[str | None]) -> Any:
    names = ", ".join(sorted(name for name in known if name)) or "none"
    raise DataError(f"{folder}: no comparisons with {what} {value!r}; there are: {names}")


def _with_relative_media(record: ComparisonRecord, folder: Path) -> ComparisonRecord:
    source = record.source_media
    return replace(
        record,
        candidates=tuple(_relative(media, folder) for media in record.candidates),
        source_media=None if source is None else _relative(source, folder),
    )


def _relative(media: Media, folder: Path) -> Media:
    if not media.path.is_absolute():
        return media
    home = folder.absolute()
    if media.path.is_relative_to(home):
        return replace(media, path=media.path.relative_to(home))
    # A `..` leads out of the folder itself, not out of a link to it: only places without links have a way between.
    parent, home = _without_links(media.path.parent), _without_links(home)
    return replace(media, path=Path(os.path.relpath(parent, home)) / media.path.name)


@lru_cache(1024)
def _without_links(folder: Path) -> Path:
    return folder.resolve()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
