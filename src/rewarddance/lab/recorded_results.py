"""Results that an earlier part of a study has left: a study can be made by size, by part, or on several machines."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any


def recorded(path: Path) -> dict[str, Any]:
    """What a results file holds; nothing when there is none yet.

    Args:
        path: Such as `docs/results/alignment.json`.
    """
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


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
