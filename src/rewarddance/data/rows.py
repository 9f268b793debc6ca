"""What a public data set's importer is made of: where its files are, how rows are read, what a row means.

An importer is a `Source`: a few names and two functions. Everything else (checking media, order, counting, writing)
is the same for all and lives in `importing`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewarddance.core.errors import DataError
from rewarddance.core.whole_text import is_whole_text
from rewarddance.data.records import ComparisonRecord


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of a data set.

    Attributes:
        path: The file.
        split: Name of the split that its records get.
        media_folders: Where its media paths start, tried in order.
    """

    path: Path
    split: str
    media_folders: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as published, not yet understood.

    Attributes:
        position: Its number in the file, from 0.
        fields: The published fields.
        problem: Why it could not even be read, else None.
    """

    position: int
    fields: Mapping[str, Any]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A row that holds a judgement.

    Attributes:
        record: Media paths as published; `id` is the row's own id, else `content_id`.
        embedded: Bytes of the media that the row itself holds, by their path in the record.
        notes: Things to count in the report, such as a field that contradicts another and was left out.
    """

    record: ComparisonRecord
    embedded: Mapping[Path, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row without a judgement, as the data set means it; counted, and not an error."""

    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """A public data set.

    Attributes:
        name: What the user types.
        summary: One line.
        files: Patterns of each split's files below the data set's folder; the first pattern that finds files is used.
        default_splits: Splits that are read when none is named.
        rows: Reads a file, in order.
        parse: Gives a row its meaning; raises `DataError` for a row that does not fit.
        media_folders: Where media paths start, below the file's folder; `{split}` is filled in.
        randomises_order: Whether the candidates' order is drawn anew. It must be where the order tells the winner; it
            must not be where people saw the media in the stored order.
    """

    name: str
    summary: str
    files: Mapping[str, tuple[str, ...]]
    default_splits: tuple[str, ...]
    rows: Callable[[InputFile], Iterator[RawRow]]
    parse: Callable[[RawRow], PublishedRow | SkippedRow]
    media_folders: tuple[str, ...] = (".",)
    randomises_order: bool = True


def content_id(prompt: str, paths: Sequence[str]) -> str:
    """An id for a row that has none, independent of the rows around it."""
    return hashlib.sha256(json.dumps([prompt, *paths]).encode()).hexdigest()[:16]


def text_field(fields: Mapping[str, Any], name: str) -> str:
    """A field with text in it; `DataError` names it when it is missing or of another type."""
    value = _present(fields, name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"field {name!r} holds no text")
    return _storable(value, name)


def optional_text(fields: Mapping[str, Any], name: str) -> str | None:
    """A field with text in it, or None when it is missing or empty."""
    value = fields.get(name)
    return None if value is None or value == "" else _storable(str(value), name)


def number_field(fields: Mapping[str, Any], name: str) -> float:
    """A field with a finite number in it."""
    value = _present(fields, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"field {name!r} holds no finite number")
    return float(value)


def optional_number(fields: Mapping[str, Any], name: str) -> float | None:
    """A finite number, or None when the field is missing or null."""
    return None if fields.get(name) is None else number_field(fields, name)


def texts_field(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A field with a list of texts."""
    return tuple(text_field({name: entry}, name) for entry in _list_field(fields, name))


def numbers_field(fields: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """A field with a list of finite numbers."""
    return tuple(number_field({name: entry}, name) for entry in _list_field(fields, name))


def _storable(text: str, name: str) -> str:
    """The text itself; a row with half a character is broken."""
    if not is_whole_text(text):
        raise DataError(f"field {name!r} holds half a character (an unpaired surrogate)")
    return text


def _list_field(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = _present(fields, name)
    if not isinstance(value, list):
        raise DataError(f"field {name!r} is not a list")
    return value


def _present(fields: Mapping[str, Any], name: str) -> Any:
    if fields.get(name) is None:
        raise DataError(f"there is no field {name!r}" if name not in fields else f"field {name!r} is null")
    return fields[name]
