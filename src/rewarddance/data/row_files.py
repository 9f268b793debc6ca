"""Rows of large files one after the other: JSON lists, JSON lines, CSV and parquet, in bounded memory.

A JSON list of a million rows would take gigabytes when parsed as a whole.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rewarddance.core.errors import DataError
from rewarddance.data.rows import InputFile, RawRow

_CHUNK_CHARACTERS = 1 << 20
_LARGEST_ROW = 1 << 26
_BATCH_ROWS = 32
"""Rows of parquet held at once; with two images embedded in each, some tens of megabytes."""


def json_rows(file: InputFile) -> Iterator[RawRow]:
    """The objects of one JSON list, in order.

    Args:
        file: UTF-8; one list of objects.

    Raises:
        DataError: The file is empty, not a list, or breaks off; the message names the last good row.
    """
    decoder = json.JSONDecoder()
    buffer, position, is_open = "", 0, False
    for chunk in _chunks(file.path):
        buffer += chunk
        if not is_open:
            buffer = buffer.lstrip("\ufeff \t\r\n")
            if buffer and not buffer.startswith("["):
                raise DataError(f"{file.path}: not a JSON list of rows; is it a file of this data set?")
            is_open, buffer = bool(buffer), buffer[1:]
        end = 0
        for value, end in _complete_values(decoder, buffer):  # noqa: B007 - the last end is used below
            yield _json_row(position, value)
            position += 1
        buffer = buffer[end:]
        if len(buffer) > _LARGEST_ROW:
            raise DataError(f"{file.path}: row {position} does not end, or is over {_LARGEST_ROW:,} characters")
    if not is_open:
        raise DataError(f"{file.path}: the file is empty; is the download complete?")
    if not buffer.lstrip(" \t\r\n,").startswith("]"):
        raise DataError(f"{file.path}: not valid JSON after {position} rows; is the download complete?")


def json_line_rows(file: InputFile) -> Iterator[RawRow]:
    """One JSON object a line; a line that is not is a row with a problem."""
    with file.path.open(encoding="utf-8-sig", errors="replace") as lines:
        for position, line in enumerate(line for line in lines if line.strip()):
            try:
                yield _json_row(position, json.loads(line))
            except (ValueError, RecursionError):
                yield RawRow(position, {}, "the line is not JSON")


def csv_rows(file: InputFile) -> Iterator[RawRow]:
    """Rows of a CSV file with a header; empty cells are left out."""
    with file.path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        try:
            for position, fields in enumerate(csv.DictReader(lines)):
                yield RawRow(position, {name: value for name, value in fields.items() if name and value})
        except csv.Error:
            raise DataError(f"{file.path}: not a CSV file") from None


def parquet_rows(file: InputFile, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[RawRow]:
    """Rows of a parquet file, some columns of it.

    Args:
        file: The file.
        required: Columns that must be there.
        optional: Columns that are read when they are there.

    Raises:
        DataError: The file is not parquet, breaks off, or lacks a required column.
    """
    try:
        with pq.ParquetFile(file.path, pre_buffer=False) as parquet:
            names = parquet.schema_arrow.names
            missing = [name for name in required if name not in names]
            if missing:
                raise DataError(f"{file.path}: columns are missing: {', '.join(missing)}")
            columns = [name for name in (*required, *optional) if name in names]
            position = 0
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns):
                for fields in batch.to_pylist():
                    yield RawRow(position, fields)
                    position += 1
    except (pa.ArrowException, OSError):
        raise DataError(f"{file.path}: not a parquet file, or a damaged one") from None


def _chunks(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            while chunk := file.read(_CHUNK_CHARACTERS):
                yield chunk
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None


def _complete_values(decoder: json.JSONDecoder, buffer: str) -> Iterator[tuple[Any, int]]:
    """The values that are whole, each with the position behind it."""
    start = 0
    while True:
        while start < len(buffer) and buffer[start] in " \t\r\n,":
            start += 1
        try:
            value, start = decoder.raw_decode(buffer, start)
        except (ValueError, RecursionError):
            return
        if not isinstance(value, Mapping) and start == len(buffer):
            # A bare number may go on in the next chunk.
            return
        yield value, start


def _json_row(position: int, value: object) -> RawRow:
    if isinstance(value, Mapping):
        return RawRow(position, value)
    return RawRow(position, {}, "the row is not a JSON object")
