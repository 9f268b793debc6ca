"""Prompt lists: one prompt a line, JSON lines, or parquet with a `prompt` column."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rewarddance.core.errors import DataError
from rewarddance.core.whole_text import is_whole_text


@dataclass(frozen=True, slots=True)
class PromptItem:
    """A prompt with the name under which its results are stored.

    Attributes:
        id: The list's own id, else the position as six digits.
        prompt: The text.
        kind: What sort of prompt it is, such as `counting`; None where the list does not say.
        place: Where it stands in its file, such as `line 3`.
    """

    id: str
    prompt: str
    kind: str | None = None
    place: str = field(default="", compare=False)


def read_prompts(path: Path) -> tuple[PromptItem, ...]:
    """Read a prompt list.

    Args:
        path: `.txt` (empty lines are skipped), `.jsonl` or `.parquet` with a field `prompt` and perhaps `id` and
            `kind`.

    Raises:
        DataError: The list is missing, empty, of another kind, or an entry has no prompt, one with half a character, or
            the id of another entry.
    """
    readers = {".txt": _read_text, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: a prompt list ends in {', '.join(readers)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        rows = list(reader(path))
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    items = tuple(_item(path, position, place, row) for position, (place, row) in enumerate(rows))
    if not items:
        raise DataError(f"{path}: holds no prompts")
    if len({item.id for item in items}) < len(items):
        raise DataError(f"{path}: two prompts have the same id")
    return items


def _item(path: Path, position: int, place: str, row: object) -> PromptItem:
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{path}: {place} has no field 'prompt' with text in it")
    name, kind = row.get("id"), row.get("kind")
    item = PromptItem(
        id=f"{position:06d}" if name is None else str(name),
        prompt=prompt,
        kind=None if kind is None else str(kind),
        place=place,
    )
    if not all(is_whole_text(text) for text in (item.id, item.prompt, item.kind or "")):
        raise DataError(f"{path}: {place} holds half a character (an unpaired surrogate); correct it, or leave it out")
    return item


def _read_text(path: Path) -> Iterator[tuple[str, object]]:
    return ((place, {"prompt": line}) for place, line in _lines(path))


def _read_jsonl(path: Path) -> Iterator[tuple[str, object]]:
    for place, line in _lines(path):
        try:
            yield place, json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{path}: {place} is not JSON") from None


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines with text in them, and which they are."""
    # Not splitlines(): a prompt may hold a Unicode line separator.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            yield f"line {number}", line.strip()


def _read_parquet(path: Path) -> Iterator[tuple[str, object]]:
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError):
        raise DataError(f"{path}: not a parquet file, or a damaged one") from None
    columns = [name for name in ("id", "prompt", "kind") if name in table.column_names]
    try:
        rows = table.select(columns).to_pylist()
    except OverflowError:
        raise DataError(f"{path}: holds dates that are out of range; give ids and kinds as text") from None
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row
