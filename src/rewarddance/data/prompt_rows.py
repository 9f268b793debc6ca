"""Rows of a folder that is filled prompt by prompt, and the settings that they were made with.

References and searches store their results in this way; both continue after a kill, and refuse to mix settings.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rewarddance.core.errors import UsageError
from rewarddance.core.files import sha256_of
from rewarddance.data.prompts import PromptItem


def whole_lines(path: Path) -> bytes:
    """The file without a line that a kill left half written; nothing of a file that is not there."""
    data = path.read_bytes() if path.is_file() else b""
    return data[: data.rfind(b"\n") + 1]


def cut_to_whole_lines(path: Path) -> bytes:
    """The same, and what comes after them is cut off. Made empty if it is not there."""
    whole = whole_lines(path)
    with path.open("ab") as file:
        file.truncate(len(whole))
        os.fsync(file.fileno())
    return whole


def has_files(folder: Path, files: Mapping[str, str | None]) -> bool:
    """Whether every file of a row is there, as it was written.

    Args:
        folder: Where the paths start.
        files: Path to sha256; None where nobody knows it.
    """
    return all(
        (folder / name).is_file() and (digest is None or _digest_of(folder / name) == digest)
        for name, digest in files.items()
    )


def _digest_of(path: Path) -> str:
    """Read once: a command looks before its models load, and again once the folder is its own."""
    found = path.stat()
    return _read_digest(path, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=1 << 18)
def _read_digest(path: Path, state: tuple[int, ...]) -> str:
    return sha256_of(path)


def missing_items(prompts: Sequence[PromptItem], is_whole: Callable[[str], bool]) -> tuple[PromptItem, ...]:
    """Those of the prompts that have no whole row yet; of equal texts, the first.

    Args:
        prompts: All that are wanted.
        is_whole: Whether a prompt has its row, and all that belongs to it.
    """
    asked = {item.prompt: item for item in reversed(prompts)}
    return tuple(item for item in prompts if asked[item.prompt] is item and not is_whole(item.prompt))


def stored_settings(path: Path) -> dict[str, Any] | None:
    """What the rows were begun with; None where that is not to be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def as_stored(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are read back: tuples are lists by then."""
    return dict(json.loads(json.dumps(dict(settings))))


def refuse_other_settings(folder: Path, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Name what differs.

    Args:
        folder: For the message.
        found: As they were stored.
        settings: As they are wanted.

    Raises:
        UsageError: The rows were begun with other settings.
    """
    wanted = as_stored(settings)
    differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if differing:
        raise UsageError(
            f"{folder} was begun with another {', '.join(differing)}; "
            "use the same settings to continue it, or another folder"
        )
