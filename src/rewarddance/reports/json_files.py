"""JSON that a run wrote, read back with the file named when it is damaged."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewarddance.core.errors import DataError


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
