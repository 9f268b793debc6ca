"""JSON that a run wrote, read back with the file named when it is damaged."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewarddance.core.errors import DataError

STEP = "optimizer_step"


def read_json(path: Path) -> Mapping[str, Any]:
    """A file of named values.

    Raises:
        DataError: It is not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}. Restore it, or leave this run out.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} does not hold named values. Restore it, or leave this run out.")
    return content


def read_json_lines(path: Path) -> tuple[Mapping[str, Any], ...]:
    """A file with named values in every line; empty when there is no such file.

    Args:
        path: May end in half a line: the run is being written, or was killed.

    Raises:
        DataError: Another line is not JSON, or holds something else.
    """
    if not path.is_file():
        return ()
    # Bytes, because a kill may cut a letter in two; and not splitlines() of text, which would also split at the Unicode
    # line separators that a prompt may hold.
    lines, rows = path.read_bytes().splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise DataError(f"{path}, line {number}, is not JSON. Restore it, or leave this run out.") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}, does not hold named values. Restore it, or leave this run out.")
        rows.append(row)
    return tuple(rows)


def read_steps(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The same of a log, which says of every line after how many updates it was written.

    Raises:
        DataError: A line does not, or is damaged.
    """
    rows = read_json_lines(path)
    for number, row in enumerate(rows, start=1):
        if finite_number(row.get(STEP)) is None:
            raise DataError(f"{path}, line {number}, has no {STEP}. Restore it, or leave this run out.")
    return rows


def finite_number(value: object) -> float | None:
    """A value that was read as a number; None for one that is none, or not finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]
