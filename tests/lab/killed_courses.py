"""Courses of lessons that are killed between two checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest


class Killed(Exception):
    """Stands for a kill."""


def killed_and_resumed(make: Callable[[Path, Callable[[int], None] | None], object], folder: Path) -> Path:
    """Run a course until it has seen 20 items, then to its end; returns the folder of its model."""

    def kill(items: int) -> None:
        if items == 20:
            raise Killed

    with pytest.raises(Killed):
        make(folder, kill)
    assert not (folder / "model").exists()
    make(folder, None)
    return folder / "model"
