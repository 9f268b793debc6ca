"""What tells one model from another, wherever it lies and however its place is written."""

import hashlib
import json
from pathlib import Path

from rewarddance.core.files import sha256_of

# The record of a saved reward model holds the hash of every other file of its folder.
_RECORD = "rewarddance.json"

_SAMPLED_BYTES = 1 << 20


def generator_fingerprint(location: str, revision: str | None, adapter: Path | None = None) -> str:
    """What tells the pictures of one generator from those of another.

    Args:
        location: Folder or hub id. A folder is known by its files' names, sizes, beginnings and ends: a generator has
            tens of gigabytes, and weights that were trained differ everywhere.
        revision: Revision of a hub id.
        adapter: Folder of adapters beside its weights, known as a folder of a generator is.
    """
    if adapter is not None:
        return f"{generator_fingerprint(location, revision)} {generator_fingerprint(str(adapter), None)}"
    folder = Path(location).expanduser()
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


def stored_fingerprint(location: str) -> str | None:
    """What tells a model that lies here from another, read in moments however large it is.

    Args:
        location: Folder, record of a folder, or hub id. A folder is known by its record, which holds the hash of every
            other file, or without one by its files' names, sizes, beginnings and ends.

    Returns:
        None for a hub id, and for what is not here.
    """
    place = Path(location).expanduser()
    if place.is_dir() and not (place / _RECORD).is_file():
        return generator_fingerprint(location, None)
    return model_fingerprint(location, None, None, None) if place.exists() else None


def is_same_model(one: str, other: str) -> bool:
    """Whether two names lead to the same reward model: the same place, or a copy of its files.

    Args:
        one: Folder, record of a folder, or hub id. A folder without a record, as of a model that was not trained here,
            is known by its files' names, sizes, beginnings and ends.
        other: The same of the other one.
    """
    places = Path(one).expanduser(), Path(other).expanduser()
    if not all(place.exists() for place in places):
        return places[0] == places[1]
    if places[0].resolve() == places[1].resolve():
        return True
    records = [place if place.is_file() else place / _RECORD for place in places]
    if all(record.is_file() for record in records):
        return sha256_of(records[0]) == sha256_of(records[1])
    if not all(place.is_dir() for place in places):
        return False
    return generator_fingerprint(one, None) == generator_fingerprint(other, None)


def _content(name: str) -> str | list[str]:
    folder = Path(name).expanduser()
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
