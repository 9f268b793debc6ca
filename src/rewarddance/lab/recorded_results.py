"""Results that an earlier part of a study has left: a study can be made by size, by part, or on several machines."""

import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


def recorded(path: Path, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a results file holds; nothing when there is none yet, or one of other settings, whose rows do not compare.

    Args:
        path: Such as `docs/results/context.json`.
        settings: Of the study as it is now, by their names in the file.
    """
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(settings or {}))
    if other := [name for name, value in now.items() if content.get(name) != value]:
        _log.warning("%s was made with another %s; nothing of it is kept", path, ", ".join(other))
        return {}
    return content


def seeds_of(rows: Sequence[Mapping[str, Any]], asked: Sequence[int]) -> list[int]:
    """Those asked for now and those of rows that were made before, in order."""
    return sorted({*asked, *(int(row["seed"]) for row in rows)})


def joined(
    earlier: Sequence[Mapping[str, Any]],
    made: Sequence[Mapping[str, Any]],
    wanted: Sequence[Hashable],
    key_of: Callable[[Mapping[str, Any]], Hashable],
) -> list[dict[str, Any]]:
    """Rows of both, the new one where both have it, in the order of the study.

    Args:
        earlier: Rows of a results file.
        made: Rows of now.
        wanted: Keys of every row that the study can have; others are left out.
        key_of: What tells rows apart.
    """
    rows = {key_of(row): dict(row) for row in (*earlier, *made)}
    return [rows[key] for key in wanted if key in rows]
