"""Media of one call, each decoded and preprocessed once; files that have not changed since an earlier call, never."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path

import torch
from PIL import Image

from rewarddance.core.errors import MediaError
from rewarddance.core.media import MediaSource, load_frames, load_image, refuse_other_sources
from rewarddance.core.types import Media
from rewarddance.rewards.backbones.protocol import Backbone
from rewarddance.rewards.questions import Medium

_SETTLED_NANOSECONDS = 2_000_000_000
_LOOKED_AT = 256  # pixels of a picture by which copies are found


class MediaCache:
    """The most recently used media of a call, ready for the vision tower.

    A file is known by its path and bytes by their hash. A PIL image is known by its identity, which is why a cache
    must not outlive the call that holds the images. Pictures of files do: the backbone keeps them for the next call.
    Copies are one medium: asked about twice, they would get answers that differ in the last bits, by their place in a
    batch, and one of them would win.
    """

    def __init__(self, backbone: Backbone, frames_per_clip: int, capacity: int = 64) -> None:
        self._backbone = backbone
        self._frames_per_clip = frames_per_clip
        self._capacity = capacity
        self._known: OrderedDict[str, Medium | MediaError] = OrderedDict()
        self._first_with: dict[Hashable, str] = {}

    def get(self, source: MediaSource) -> Medium:
        """The medium, decoded on first use.

        Raises:
            MediaError: It cannot be decoded; said again on every use, without another try.
            UsageError: It is no medium in any form.
        """
        refuse_other_sources(source)
        key = _key(source)
        if key not in self._known:
            self._known[key] = self._known_copy(self._load(key, source))
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        found = self._known[key]
        if isinstance(found, MediaError):
            raise MediaError(str(found))
        return found

    def _known_copy(self, medium: Medium | MediaError) -> Medium | MediaError:
        """The medium that is a copy of this one and came before it, or this one."""
        if isinstance(medium, MediaError):
            return medium
        like = _likeness(medium)
        other = self._known.get(self._first_with.get(like, ""))
        if isinstance(other, Medium) and _are_equal(medium, other):
            return other
        self._first_with[like] = medium.key
        return medium

    def _load(self, key: str, source: MediaSource) -> Medium | MediaError:
        state = _file_state(source)
        pictures = None if state is None else self._backbone.kept_pictures.get((key, self._frames_per_clip, state))
        if pictures is None:
            try:
                frames = self._decoded(source)
                pictures = tuple(self._backbone.picture_from_image(frame) for frame in frames)
            except MediaError as error:
                return error
            if state is not None:
                self._backbone.kept_pictures.keep((key, self._frames_per_clip, state), pictures)
        return Medium(key, pictures, len(pictures) > 1 or (isinstance(source, Media) and source.kind == "clip"))

    def _decoded(self, source: MediaSource) -> tuple[Image.Image, ...]:
        if isinstance(source, Image.Image) or (isinstance(source, Media) and source.kind == "image"):
            return (load_image(source),)
        return load_frames(source, self._frames_per_clip)


def _likeness(medium: Medium) -> Hashable:
    """Equal for copies, and seldom for other media: shapes and a few pixels of each picture."""
    shown = [picture.pixel_values for picture in medium.pictures]
    pixels = [values.flatten()[:: max(1, values.numel() // _LOOKED_AT)].tolist() for values in shown]
    return medium.is_clip, tuple((tuple(one.shape), tuple(few)) for one, few in zip(shown, pixels, strict=True))


def _are_equal(medium: Medium, other: Medium) -> bool:
    both = zip(medium.pictures, other.pictures, strict=True)
    return all(torch.equal(one.pixel_values, two.pixel_values) and one.grid == two.grid for one, two in both)


def _key(source: MediaSource) -> str:
    match source:
        case Media():
            return f"{source.kind}:{source.path}"
        case bytes():
            return f"bytes:{hashlib.sha256(source).hexdigest()}"
        case Image.Image():
            return f"picture:{id(source)}"
        case _:
            return f"path:{source}"


def _file_state(source: MediaSource) -> tuple[int, ...] | None:
    """What changes when a file's content does; None for what is no file, is not there, or was written just now."""
    if isinstance(source, bytes | Image.Image):
        return None
    try:
        found = Path(source.path if isinstance(source, Media) else source).stat()
    except (OSError, ValueError):
        return None
    # A file that is written twice in a moment may have the same time both times.
    if time.time_ns() - found.st_mtime_ns < _SETTLED_NANOSECONDS:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
