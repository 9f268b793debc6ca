"""The one file that a command writes under a name which its user has typed."""

import os
import stat
from pathlib import Path

from rewarddance.core.errors import UsageError


def output_file(path: Path, begins: str | None = None) -> Path:
    """Where a command may write its file, found before any work is done.

    Args:
        path: As typed; need not exist, nor its folder.
        begins: The first characters of files that may be replaced, such as a page by a newer one; case and space before
            them do not count, and an empty file may always be replaced. None where the writer looks itself.

    Returns:
        The same; the file behind it where it is a link, so that the link stays.

    Raises:
        UsageError: It is a folder, a device, a pipe or a socket, or a file that begins with something else.
        OSError: It cannot be reached, as below a file.
    """
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        return place
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is not an ordinary file; give the name of one")
    if begins is not None and not _begins(place, begins):
        raise UsageError(f"{path} holds something else already; move it away, or give another name")
    return place


def _begins(path: Path, begins: str) -> bool:
    with path.open("rb") as file:
        start = file.read(1024).lstrip().lower()
    return not path.stat().st_size or start.startswith(begins.lower().encode())
