"""The key `out`, which every kind of run has."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator


def _named(value: object) -> object:
    # `Path("")` is the current folder, which nobody has named.
    if value is None or value == "":
        raise ValueError("it is empty; give a folder, or `.` for the current one")
    return value


RunDirectory = Annotated[Path, BeforeValidator(_named)]
"""Where a run writes; an empty name is refused."""
