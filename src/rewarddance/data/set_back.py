"""Prompts that are asked last: a judge fell silent over them, and those behind them must not wait for ever.

A judge that has gone is silent over every prompt; one that fails on a single prompt would stop a run at that prompt
each time that it is continued.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rewarddance.core.files import write_json_atomic
from rewarddance.data.prompts import PromptItem

SET_BACK_NAME = "set_back.json"


def set_back(folder: Path, prompt: str) -> None:
    """Have a prompt asked behind the others when the work in this folder goes on.

    Args:
        folder: Of a search, or of a generation of references; is there.
        prompt: The one at hand when the judge fell silent.
    """
    others = [one for one in _read(folder) if one != prompt]
    write_json_atomic(folder / SET_BACK_NAME, [*others, prompt])


def in_turn(folder: Path, prompts: Sequence[PromptItem]) -> tuple[PromptItem, ...]:
    """The prompts in the order in which they are asked: as they come, those that were set back at the end."""
    places = {prompt: place for place, prompt in enumerate(_read(folder), start=1)}
    return tuple(sorted(prompts, key=lambda item: places.get(item.prompt, 0)))


def _read(folder: Path) -> list[str]:
    path = folder / SET_BACK_NAME
    if not path.is_file():
        return []
    stored: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return stored
