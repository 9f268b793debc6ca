"""What may stand where a command or a config names a model."""

import hashlib
import json
from pathlib import Path

import typer

from rewarddance.core.files import sha256_of

LAB_PREFIX = "lab:"

# The record of a saved reward model holds the hash of every other file of its folder.
_RECORD = "rewarddance.json"

_SAMPLED_BYTES = 1 << 20


def model_location(name: str) -> str:
    """The folder or hub id that a name stands for.

    Args:
        name: A folder, a hub id, or `lab:SIZE` for a base model that ships with the package.

    Raises:
        UsageError: The lab has no such size.
    """
    if not name.startswith(LAB_PREFIX):
        return name
    from rewarddance.lab.base_models import lab_base

    return str(lab_base(name.removeprefix(LAB_PREFIX)))


def judge_location(name: str) -> str:
    """As `model_location`, for a model that is about to judge: of an untrained one of the lab, people are told so."""
    if name.startswith(LAB_PREFIX):
        typer.echo(
            f"warning: {name} has learned no preferences and its scores mean little; "
            "`rewarddance demo` makes a reward model of it",
            err=True,
        )
    return model_location(name)


def generator_location(name: str) -> str:
    """The folder or hub id that a generator's name stands for.

    Args:
        name: A folder, a hub id, or `lab:drawn` for the generator that ships with the package.

    Raises:
        UsageError: The lab has no such generator.
    """
    if not name.startswith(LAB_PREFIX):
        return name
    from rewarddance.lab.generator_weights import lab_generator

    return str(lab_generator(name.removeprefix(LAB_PREFIX)))


def generator_fingerprint(location: str, revision: str | None) -> str:
    """What tells the pictures of one generator from those of another.

    Args:
        location: Folder or hub id. A folder is known by its files' names, sizes, beginnings and ends: a generator has
            tens of gigabytes, and weights that were trained differ everywhere.
        revision: Revision of a hub id.
    """
    folder = Path(location)
    if not folder.is_dir():
        return hashlib.sha256(json.dumps([location, revision]).encode()).hexdigest()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(json.dumps([_sampled(path, folder) for path in files]).encode()).hexdigest()


def model_fingerprint(location: str, adapter: str | None, revision: str | None, kind: str | None) -> str:
    """What tells the judgements of one model from those of another.

    Args:
        location: Folder, record of a folder, or hub id. A folder is known by its files, a hub id by its name and
            revision.
        adapter: Folder or hub id of an adapter.
        revision: Revision of a hub id.
        kind: Paradigm in which an untrained model is asked.
    """
    parts = [None if name is None else _content(name) for name in (location, adapter)]
    return hashlib.sha256(json.dumps([*parts, revision, kind]).encode()).hexdigest()


def _content(name: str) -> str | list[str]:
    folder = Path(name)
    if folder.is_file():  # the record alone, of a model that is served
        return [f"{folder.name} {sha256_of(folder)}"]
    if not folder.is_dir():
        return name
    record = folder / _RECORD
    files = [record] if record.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    return [f"{path.relative_to(folder)} {sha256_of(path)}" for path in files]


def _sampled(path: Path, folder: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_SAMPLED_BYTES))
        file.seek(max(0, size - _SAMPLED_BYTES))
        digest.update(file.read())
    return f"{path.relative_to(folder)} {size} {digest.hexdigest()}"
