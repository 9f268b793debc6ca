"""Prompt lists: one prompt a line, JSON lines, or parquet with a `prompt` column."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rewarddance.core.errors import DataError


@dataclass(frozen=True, slots=True)
class PromptItem:
    """A prompt with the name under which its results are stored.

    Attributes:
        id: The list's own id, else the position as six digits.
        prompt: The text.
        kind: What sort of prompt it is, such as `counting`; None where the list does not say.
    """

    id: str
    prompt: str
    kind: str | None = None


def read_prompts(path: Path) -> tuple[PromptItem, ...]:
    """Read a prompt list.

    Args:
        path: `.txt` (empty lines are skipped), `.jsonl` or `.parquet` with a field `prompt` and perhaps `id` and
            `kind`.

    Raises:
        DataError: The list is missing, empty, of another kind, or an entry has no prompt or the id of another entry.
    """
    readers = {".txt": _read_text, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: a prompt list ends in {', '.join(readers)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        rows = reader(path)
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    items = tuple(_item(path, position, row) for position, row in enumerate(rows))
    if not items:
        raise DataError(f"{path}: holds no prompts")
    if len({item.id for item in items}) < len(items):
        raise DataError(f"{path}: two prompts have the same id")
    return items


def _item(path: Path, position: int, row: object) -> PromptItem:
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{path}: entry {position} has no field 'prompt' with text in it")
    name, kind = row.get("id"), row.get("kind")
    return PromptItem(
        id=f"{position:06d}" if name is None else str(name), prompt=prompt, kind=None if kind is None else str(kind)
    )


def _read_text(path: Path) -> list[object]:
    return [{"prompt": line.strip()} for line in _lines(path) if line.strip()]


def _read_jsonl(path: Path) -> list[object]:
    rows: list[object] = []
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise DataError(f"{path}: line {number} is not JSON") from None
    return rows


def _lines(path: Path) -> list[str]:
    # Not splitlines(): a prompt may hold a Unicode line separator.
    return path.read_text(encoding="utf-8").split("\n")


def _read_parquet(path: Path) -> list[object]:
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError):
        raise DataError(f"{path}: not a parquet file, or a damaged one") from None
    return list(table.select([name for name in ("id", "prompt", "kind") if name in table.column_names]).to_pylist())
