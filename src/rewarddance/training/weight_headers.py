"""How large stored models are, from their configs and the headers of their safetensors: no weight is read."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from huggingface_hub import HfFileSystem
from huggingface_hub.errors import HfHubHTTPError

from rewarddance.core.errors import ModelError
from rewarddance.core.folder_safety import refuse_revision
from rewarddance.generators.adapter_file import adapter_file

Shapes = Mapping[str, tuple[int, ...]]

_STEMS = ("diffusion_pytorch_model", "model")
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # as in safetensors itself
# Without a connection, the hub's client raises what the HTTP library of its version raises.
_READ_ERRORS: tuple[type[Exception], ...] = (OSError, *cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__))
_SETTINGS_ERRORS: tuple[type[Exception], ...] = (ValueError, *_READ_ERRORS)


@runtime_checkable
class StoredFiles(Protocol):
    """Files of a model, wherever they are."""

    def has(self, path: str) -> bool:
        """Whether there is such a file."""

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file; to its end if `length` is None."""


class FolderFiles:
    """Files of a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        return (self._folder / path).is_file()

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file."""
        with (self._folder / path).open("rb") as file:
            file.seek(start)
            return file.read(-1 if length is None else length)


class HubFiles:
    """Files of a repository on the hub; of weights, only the bytes that are asked for are fetched."""

    def __init__(self, repository: str, revision: str | None) -> None:
        self._files: Any = HfFileSystem()
        self._root = repository if revision is None else f"{repository}@{revision.replace('/', '%2F')}"

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        return bool(self._files.isfile(f"{self._root}/{path}"))

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file."""
        end = None if length is None else start + length
        content: bytes = self._files.cat_file(f"{self._root}/{path}", start=start, end=end)
        return content


def stored_files(path_or_id: str, revision: str | None = None) -> StoredFiles:
    """The files of a folder or of a hub id.

    Raises:
        ModelError: It is neither a folder nor like a hub id.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        refuse_revision(folder, revision)
        return FolderFiles(folder)
    if path_or_id.count("/") != 1 or path_or_id.startswith((".", "~", "/")):
        raise ModelError(f"model folder {path_or_id} does not exist; give a folder or a hub id like OWNER/NAME")
    return HubFiles(path_or_id, revision)


def read_settings(files: StoredFiles, path: str) -> Mapping[str, Any]:
    """A JSON file of named values; empty when there is none.

    Raises:
        ModelError: It is damaged, or the hub does not answer.
    """
    try:
        if not files.has(path):
            return {}
        content = json.loads(files.read(path))
    except _SETTINGS_ERRORS as error:
        raise ModelError(f"{path} cannot be read ({_first_line(error)}); check the model's name and files") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold named values; copy or download the model again")
    return content


def tensor_shapes(files: StoredFiles, part: str = "") -> Shapes:
    """Shape of every stored tensor, by name.

    Args:
        files: Of a model.
        part: Folder of one of its parts; empty for the model's own folder.

    Raises:
        ModelError: There are no safetensors, or a header is damaged.
    """
    place = f"{part}/" if part else ""
    for stem in _STEMS:
        single, index = f"{place}{stem}.safetensors", f"{place}{stem}.safetensors.index.json"
        try:
            if files.has(single):
                return _header(files, single)
            shards = read_settings(files, index).get("weight_map")
            if isinstance(shards, dict):
                shapes: dict[str, tuple[int, ...]] = {}
                for name in sorted(set(map(str, shards.values()))):
                    shapes |= _header(files, f"{place}{name}")
                return shapes
        except _READ_ERRORS as error:
            raise ModelError(f"{single} cannot be read ({_first_line(error)}); check the model's files") from error
    raise ModelError(f"there are no safetensors in {part or 'the model folder'}; copy or download the model again")


def adapter_shapes(folder: Path) -> Shapes:
    """Shape of every tensor of a generator's adapter, by name.

    Raises:
        ModelError: There is none, or its header is damaged.
    """
    path = adapter_file(folder)
    return _header(FolderFiles(path.parent), path.name)


def parameters_in(shapes: Shapes) -> int:
    """Number of values in all tensors."""
    return sum(math.prod(shape) for shape in shapes.values())


def _header(files: StoredFiles, path: str) -> Shapes:
    """Source: the safetensors format; eight bytes of length, then JSON."""
    length = int.from_bytes(files.read(path, 0, _LENGTH_BYTES), "little")
    try:
        if not 0 < length <= _LARGEST_HEADER:
            raise ValueError("no header")
        header = json.loads(files.read(path, _LENGTH_BYTES, length))
        return {name: tuple(map(int, entry["shape"])) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} has no readable header; copy or download the model again") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
