"""Files that are either whole or absent, and folders that can prove they are complete.

A reader never sees half a file: the bytes go to a temporary file in the same folder, reach the disk, and only then
take the final name. A folder is complete when its manifest, written last, agrees with every file in it.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rewarddance.core.errors import UsageError

MANIFEST_NAME = "manifest.json"

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_FILE_MODE = 0o666
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ON_FULL_DISK = "free some and give the same command again, `align` and `train` with --resume; what was saved is intact"


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Replace a file as a whole; after a crash at any point the old or the new content is there, never a mixture.

    Args:
        path: The final name; its folder exists.
        data: The whole content.

    Raises:
        OSError: It cannot be written, such as on a full disk; names the file.
    """
    with errors_named(path):
        _write_atomic(path, data)


def _write_atomic(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            # mkstemp makes files that only their owner reads; the final file is an ordinary one.
            os.fchmod(file.fileno(), _FILE_MODE & ~_current_umask())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """`write_bytes_atomic` for UTF-8 text."""
    write_bytes_atomic(path, text.encode())


def write_json_atomic(path: Path, value: object) -> None:
    """Write indented JSON as a whole.

    Args:
        path: The final name; its folder exists.
        value: Made of dicts, lists, strings, finite numbers, booleans and None.

    Raises:
        ValueError: A number is not finite. JSON has no word for it; None says "unknown".
    """
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_durably(file: IO[bytes], data: bytes) -> None:
    """Append to a file and bring it to the disk.

    Nothing stays in a buffer, whose second failure at the end of a `with` would hide which file it was.

    Args:
        file: Opened for appending, with nothing left to flush.
        data: What is added.

    Raises:
        OSError: It cannot be written, such as on a full disk; names the file.
    """
    with errors_named(Path(file.name)):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file.fileno(), rest) :]
        os.fsync(file.fileno())


def append_bytes(path: Path, data: bytes) -> None:
    """The same to a file that is not open, made if it is not there."""
    with path.open("ab") as file:
        append_durably(file, data)


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Let errors of the system name a file; those of writing to an open one do not.

    Raises:
        OSError: What was raised inside, with the path in it.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def system_error_line(error: OSError) -> str:
    """What the system refused, where, and on a full disk what to do."""
    place = f": {error.filename}" if error.filename else ""
    if error.errno in _NO_ROOM:  # libraries put words of their own in the place of the system's
        return f"{os.strerror(error.errno)}{place}; {_ON_FULL_DISK}"
    return f"{error.strerror or error}{place}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let no other process write to a file, or whatever it stands for, meanwhile.

    The lock ends with the process, however that ends. Some network file systems have none; there it is not noticed that
    two processes write.

    Args:
        path: Made empty if it is not there; its folder exists.

    Raises:
        UsageError: Another process holds it.
    """
    with path.open("ab") as file:
        lock_file(file, path)
        yield


def lock_file(file: IO[bytes], path: Path) -> None:
    """The same for a file that is open already, until it is closed.

    Raises:
        UsageError: Another process holds it.
    """
    _lock(file.fileno(), path)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """`locked` for everything in a folder; it needs no file there.

    Args:
        folder: Made if it is not there, and then taken away again if it is still empty at the end.

    Raises:
        UsageError: Another process holds it.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor, folder)
        try:
            yield
        finally:
            if is_new:
                with suppress(OSError):
                    folder.rmdir()
            # Closing alone would leave the lock to any process that was forked meanwhile.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{path} is being written by another process; wait, or write to another place") from None
    except OSError:
        _log.debug("%s cannot be locked on its file system", path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: without this, a rename can be lost in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make everything below a folder durable, contents and names; to be done before a rename makes it count."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            _sync_file(path)
    sync_folder(folder)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path) -> None:
    """Declare a folder complete: bring every file in it to the disk, then write size and hash of each.

    Args:
        folder: Everything below it is listed; nothing may be written to it afterwards.
    """
    entries: dict[str, dict[str, object]] = {}
    for path in _files_below(folder):
        entries[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    sync_tree(folder)
    write_json_atomic(folder / MANIFEST_NAME, {"files": entries})


def verify_manifest(folder: Path) -> list[str]:
    """What keeps a folder from being complete.

    Args:
        folder: A folder that may have been written by `write_manifest`.

    Returns:
        One line a problem, empty when the folder is whole. Files that the manifest does not list are no problem:
        they were added by hand and nobody reads them.
    """
    manifest = folder / MANIFEST_NAME
    if not manifest.is_file():
        return [f"{MANIFEST_NAME} is missing"]
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        expected = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST_NAME} is not readable"]
    problems = (_problem(folder, name, size, digest) for name, (size, digest) in expected.items())
    return [problem for problem in problems if problem is not None]


def _problem(folder: Path, name: str, size: int, digest: str) -> str | None:
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    if path.stat().st_size != size:
        return f"{name} has {path.stat().st_size} bytes instead of {size}"
    if sha256_of(path) != digest:
        return f"{name} has changed: its sha256 differs"
    return None


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST_NAME)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _current_umask() -> int:
    # The only way to read the umask is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
