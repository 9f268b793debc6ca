"""What commands print: JSON for programs, a table for people. Results go to stdout, everything else to stderr."""

import codecs
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def print_json(value: object) -> None:
    """One JSON document on stdout, in which characters that stdout lacks are escapes of JSON."""
    is_ascii = codecs.lookup(sys.stdout.encoding or "ascii").name != "utf-8"
    print(json.dumps(value, indent=2, ensure_ascii=is_ascii, allow_nan=False))


def plain(value: object) -> object:
    """The same nested value with text in place of paths."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """An aligned table without lines, which also reads well in a file or a pipe."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    for row in (columns, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def number_in_words(value: float | None, form: str = ".3f") -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)
