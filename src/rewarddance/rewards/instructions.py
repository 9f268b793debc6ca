"""Criteria that a reward model is asked to judge by: data, kept in one small YAML file each.

The library stands in the `instructions/` folder beside this file. A new task or dimension is a new file there, or a
file of the user's own, given as a `Path`. A name that is text never reads another file, so it may come from a request
over the network.

Source:
    RewardDance, arXiv:2509.08826, Fig. 3 and section 3.1: "task-aware instructions" with specific evaluation criteria.
    Differs: the paper does not print its criteria; these are ours.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from rewarddance.core.errors import UsageError

Task = Literal["text_to_image", "text_to_video", "image_to_video", "editing", "any"]
"""What media were asked to be; `any` for criteria that fit every task."""

_FILE_SUFFIXES = (".yaml", ".yml")
_LIBRARY = resources.files("rewarddance.rewards") / "instructions"


@dataclass(frozen=True, slots=True)
class Instruction:
    """Task-aware criteria.

    Attributes:
        name: What configs and requests call it.
        task: What the media were asked to be.
        dimension: What is judged: `overall`, `alignment`, `structure`, `aesthetics`, `motion`, `preservation`, ...
        version: Grows with every change of the text.
        text: The criteria as the model reads them; empty for none.
    """

    name: str
    task: Task
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


def dimension_names(task: Task) -> tuple[str, ...]:
    """Dimensions for which the library has criteria of a task, sorted."""
    return tuple(sorted({one.dimension for one in map(stored_instruction, instruction_names()) if one.task == task}))


def task_instruction(task: Task, dimension: str = "overall") -> Instruction:
    """The library's criteria for a task and a dimension.

    Raises:
        UsageError: The task has no such dimension.
    """
    known = dimension_names(task)
    if dimension not in known:
        raise UsageError(f"no criteria for {dimension!r} of {task}; its dimensions are {', '.join(known)}")
    # The task that came first has the short names, which are stored in models and data sets.
    return stored_instruction(dimension if task == "text_to_image" else f"{task}_{dimension}")


def load_instruction(name_or_path: str | Path) -> Instruction:
    """Criteria of the library, or of a file of the user's own.

    Args:
        name_or_path: A name in the library; or a YAML file with the fields of `Instruction`, as a `Path` or as text
            that ends in .yaml. Only for a trusted caller: a text may be read as a file here.

    Raises:
        UsageError: Unknown name, missing file, or a file without the right fields.
    """
    source = instruction_argument(name_or_path) if isinstance(name_or_path, str) else name_or_path
    return stored_instruction(source) if isinstance(source, str) else _read(source)


def instruction_identity(name_or_path: str | Path | None) -> str | None:
    """What tells the answers to these criteria from those to others: the hash of their text.

    Criteria that cannot be read keep their name, so that whoever asks by them gets to say so; None stays None.
    """
    if name_or_path is None:
        return None
    try:
        return load_instruction(name_or_path).sha256
    except UsageError:
        return str(name_or_path)


def instruction_argument(text: str) -> str | Path:
    """What a user typed in a command or a config, as a request carries it: text stays a name, a YAML file is a `Path`.

    Text that came over a network is not to pass through here.
    """
    return Path(text).expanduser().resolve() if text.endswith(_FILE_SUFFIXES) else text


def _read(path: Path) -> Instruction:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "there is no such file" if not path.is_file() else "it is not readable text"
        known = ", ".join(instruction_names())
        raise UsageError(f"no criteria in {path}: {reason}; give a YAML file or one of: {known}") from error
    return _parsed(text, str(path))


def _parsed(text: str, origin: str) -> Instruction:
    try:
        return _ADAPTER.validate_python(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise UsageError(
            f"instruction {origin} needs the fields name, task, dimension, version and text: {reason}"
        ) from error
