"""What a model folder must not contain: anything that runs code when it is loaded.

Weights are safetensors and everything else is JSON or text. Nothing in a folder that fails this check is opened.
There is no fallback: a folder with safetensors *and* a pickle is refused as well, because which of the two gets
loaded is then some library's decision.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewarddance.core.errors import ModelError, UsageError

_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".msgpack", ".h5"})
_CODE = frozenset({".py", ".pyc", ".so", ".dll", ".dylib"})
_WEIGHT_LISTS = (".safetensors", ".safetensors.index.json")
# Vocabularies are large, and their keys are words of the language, not settings.
_VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})


def check_folder_is_safe(folder: Path, trust_remote_code: bool = False) -> None:
    """Refuses a model folder that could run code.

    Args:
        folder: A local folder, or a snapshot in the Hugging Face cache (whose links into `blobs/` are allowed).
        trust_remote_code: Whether the user has taken the responsibility; then nothing is checked.

    Raises:
        ModelError: Names the first file that is refused, and why.
    """
    if trust_remote_code:
        return
    home = _allowed_root(folder)
    for path in _entries(folder):
        reason = _refusal(path, home)
        if reason is not None:
            raise ModelError(
                f"{path} {reason}; the folder is not loaded: use a safetensors copy, "
                "or pass trust_remote_code=True (--trust-remote-code) if you trust its author"
            )


def refuse_revision(folder: Path, revision: str | None) -> None:
    """Refuses a revision of what has none: a local folder is what it is.

    Raises:
        UsageError: One is given.
    """
    if revision is not None:
        raise UsageError(f"{folder} is a folder and has no revision {revision!r}; leave it out, or give a hub id")


def _allowed_root(folder: Path) -> Path:
    resolved = folder.resolve()
    # .../models--owner--name/snapshots/COMMIT holds links to .../models--owner--name/blobs/HASH.
    return resolved.parent.parent if resolved.parent.name == "snapshots" else resolved


def _entries(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in sorted(folders + files):
            yield Path(parent) / name


def _refusal(path: Path, home: Path) -> str | None:
    if path.is_symlink() and not path.resolve().is_relative_to(home):
        return "is a link that leaves the folder"
    if path.is_dir():
        return None
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        return "may be a pickle, which can run code when it is read"
    if suffix in _CODE:
        return "is program code"
    if suffix != ".json" or path.name in _VOCABULARIES:
        return None
    return _index_refusal(path) if path.name.endswith(".index.json") else _json_refusal(path)


def _index_refusal(path: Path) -> str | None:
    """Why the list of weight files is refused; transformers reads a file that is not safetensors as a pickle."""
    if not path.name.endswith(_WEIGHT_LISTS[1]):
        return None  # of another format, whose files would be refused themselves
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        outside = next((name for name in named if Path(name).name != name or Path(name).suffix != ".safetensors"), None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "is not a readable list of weight files"
    return None if outside is None else f"names {outside!r}, which is no safetensors file of the same folder"


def _json_refusal(path: Path) -> str | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON; copy or download the model again") from error
    for key, setting in _settings(value):
        if key == "auto_map" and setting:
            return 'asks for code of its own ("auto_map")'
        if key == "_attn_implementation_internal":
            return 'asks for code of its own ("_attn_implementation_internal")'
        if key == "transformers_weights" and setting and not str(setting).endswith(_WEIGHT_LISTS):
            return f'names weights that are not safetensors ("{key}": "{setting}")'
        # "owner/kernel" makes transformers download a compiled kernel from the hub and run it.
        if key.endswith("_implementation") and isinstance(setting, str) and "/" in setting:
            return f'asks for code from the hub ("{key}": "{setting}")'
    return None


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON value with what it holds, at any depth."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            yield from current.items()
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)
