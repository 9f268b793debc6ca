"""From the media path in a published row to a checked file.

Paths come from files that others wrote. One that is absolute or climbs with `..` is refused, as it could make any file
of this machine part of a data set. Links inside the data set's folder are the user's own and are followed.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from rewarddance.core.errors import MediaError, OversizedMediaError
from rewarddance.core.files import errors_named, sha256_of
from rewarddance.core.media import CLIP_SUFFIXES, MediaFacts, MediaLimits, inspect_media
from rewarddance.core.types import Media

MediaMode = Literal["reference", "link", "copy"]
"""Leave media where they are and store the way to them; or hard-link or copy them into the new folder, by content."""

Verification = Literal["header", "full"]
"""Check the header only, or decode every pixel."""

_CACHED_FILES = 100_000
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "matroska": ".mkv"}


@dataclass(frozen=True, slots=True)
class MediaProblem:
    """A medium that cannot be used.

    Attributes:
        name: Its path as published.
        reason: `missing`, `oversized`, `unreadable` or `escapes_root`.
        message: One line.
    """

    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """How media are checked and kept; see `import_source`."""

    out: Path
    mode: MediaMode
    verification: Verification
    is_hashed: bool
    limits: MediaLimits


class MediaStore:
    """Checks media once each, and keeps them in place or below `out/media`."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        # Images occur in many comparisons; each is opened once while it is remembered.
        self._checked = lru_cache(_CACHED_FILES)(self._check_file)

    def from_file(self, media: Media, folders: tuple[Path, ...]) -> Media | MediaProblem:
        """Find and check a file.

        Args:
            media: With the path as published.
            folders: Where it may be, tried in order.

        Returns:
            The medium with an absolute path, its hash, and the frames and rate of a clip.
        """
        name = media.path.as_posix()
        if _escapes(name):
            return MediaProblem(
                name, "escapes_root", f"{name}: absolute or with '..'; give paths below the data folder"
            )
        path = next((folder / media.path for folder in folders if (folder / media.path).is_file()), None)
        if path is None:
            return MediaProblem(name, "missing", f"{name}: no such file below {folders[0]}")
        checked = self._checked(path.absolute())
        return replace(checked, name=name) if isinstance(checked, MediaProblem) else _merged(media, checked)

    def from_bytes(self, media: Media, data: bytes) -> Media | MediaProblem:
        """Check a file that is embedded in its row, and write it to `out/media` under its hash."""
        facts = _inspected(data, media.path.as_posix(), self._settings)
        if isinstance(facts, MediaProblem):
            return facts
        digest = hashlib.sha256(data).hexdigest()
        path = self._place(digest, _SUFFIXES.get(facts.format, f".{facts.format}"))
        if not path.is_file() or path.stat().st_size != len(data):
            partial = path.with_suffix(f".{os.getpid()}.partial")
            with errors_named(partial):
                partial.write_bytes(data)
            partial.replace(path)
        return _merged(media, _described(path, facts, digest))

    def _check_file(self, path: Path) -> Media | MediaProblem:
        facts = _inspected(path, path.name, self._settings)
        if isinstance(facts, MediaProblem):
            return facts
        is_stored = self._settings.mode != "reference"
        digest = sha256_of(path) if self._settings.is_hashed or is_stored else None
        if is_stored and digest is not None:
            path = self._keep(path, self._place(digest, path.suffix.lower()))
        return _described(path, facts, digest)

    def _keep(self, path: Path, place: Path) -> Path:
        if not place.is_file() or place.stat().st_size != path.stat().st_size:
            partial = place.with_suffix(f".{os.getpid()}.partial")
            partial.unlink(missing_ok=True)
            try:
                if self._settings.mode == "copy":
                    raise OSError
                partial.hardlink_to(path.resolve())
            except OSError:
                # Another file system: a hard link is not possible there, a copy is.
                shutil.copyfile(path, partial)
            partial.replace(place)
        return place

    def _place(self, digest: str, suffix: str) -> Path:
        folder = self._settings.out.absolute() / "media" / digest[:2]
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{digest}{suffix}"


def _inspected(source: Path | bytes, name: str, settings: StoreSettings) -> MediaFacts | MediaProblem:
    try:
        return inspect_media(source, settings.limits, full=settings.verification == "full")
    except OversizedMediaError as error:
        return MediaProblem(name, "oversized", str(error))
    except MediaError as error:
        return MediaProblem(name, "unreadable", str(error))


def _described(path: Path, facts: MediaFacts, digest: str | None) -> Media:
    if path.suffix.lower() in CLIP_SUFFIXES:
        return Media(path, "clip", frames=facts.frames, fps=facts.fps, sha256=digest)
    return Media(path, sha256=digest)


def _merged(published: Media, found: Media) -> Media:
    """The row's word on what the medium is, the file's word on the rest."""
    return replace(
        published,
        path=found.path,
        kind="clip" if "clip" in (published.kind, found.kind) else "image",
        frames=published.frames if published.frames is not None else found.frames,
        fps=published.fps if published.fps is not None else found.fps,
        sha256=found.sha256,
    )


def _escapes(name: str) -> bool:
    windows = PureWindowsPath(name)
    is_absolute = PurePosixPath(name).is_absolute() or bool(windows.drive or windows.root)
    return is_absolute or ".." in windows.parts or "\0" in name
