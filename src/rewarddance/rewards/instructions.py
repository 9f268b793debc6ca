"""Criteria that a reward model is asked to judge by: data, kept in one small YAML file each.

The library stands in the `instructions/` folder beside this file. A new task or dimension is a new file there, or a
file of the user's own, given by its path.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from rewarddance.core.errors import UsageError

_LIBRARY = resources.files("rewarddance.rewards") / "instructions"


@dataclass(frozen=True, slots=True)
class Instruction:
    """Task-aware criteria.

    Attributes:
        name: What configs and requests call it.
        task: What the media were asked to be, such as `text_to_image`.
        dimension: What is judged: `overall`, `alignment`, `structure`, `aesthetics`, ...
        version: Grows with every change of the text.
        text: The criteria as the model reads them; empty for none.
    """

    name: str
    task: str
    dimension: str
    version: int
    text: str

    @property
    def sha256(self) -> str:
        """Hex digest of the text: two models were asked the same thing when these are equal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


_ADAPTER = TypeAdapter(Instruction)


def instruction_names() -> tuple[str, ...]:
    """Names in the library, sorted."""
    return tuple(sorted(Path(entry.name).stem for entry in _LIBRARY.iterdir() if entry.name.endswith(".yaml")))


@cache
def stored_instruction(name: str) -> Instruction:
    """Criteria of the library, by name.

    Raises:
        UsageError: No such name. Never reads another file, so a name may come from a request.
    """
    if name not in instruction_names():
        raise UsageError(
            f"no instruction named {name!r}; known: {', '.join(instruction_names())}, or give the path of a .yaml file"
        )
    return _parsed((_LIBRARY / f"{name}.yaml").read_text(encoding="utf-8"), name)


def load_instruction(name_or_path: str | Path) -> Instruction:
    """Criteria of the library, or of a file of the user's own.

    Args:
        name_or_path: A name in the library, or the path of a YAML file with the fields of `Instruction`.

    Raises:
        UsageError: Unknown name, missing file, or a file without the right fields.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        return stored_instruction(str(name_or_path))
    if not path.is_file():
        raise UsageError(f"no instruction file at {path}; known names: {', '.join(instruction_names())}")
    return _parsed(path.read_text(encoding="utf-8"), str(path))


def _parsed(text: str, origin: str) -> Instruction:
    try:
        return _ADAPTER.validate_python(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise UsageError(
            f"instruction {origin} needs the fields name, task, dimension, version and text: {reason}"
        ) from error
