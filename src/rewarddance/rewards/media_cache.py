"""Media of one call, each decoded and preprocessed once."""

import hashlib
from collections import OrderedDict

from PIL import Image

from rewarddance.core.errors import MediaError
from rewarddance.core.media import MediaSource, load_frames, load_image
from rewarddance.core.types import Media
from rewarddance.rewards.backbones.protocol import Backbone
from rewarddance.rewards.questions import Medium


class MediaCache:
    """The most recently used media of a call, ready for the vision tower.

    A file is known by its path and bytes by their hash. A PIL image is known by its identity, which is why a cache
    must not outlive the call that holds the images.
    """

    def __init__(self, backbone: Backbone, frames_per_clip: int, capacity: int = 64) -> None:
        self._backbone = backbone
        self._frames_per_clip = frames_per_clip
        self._capacity = capacity
        self._known: OrderedDict[str, Medium | MediaError] = OrderedDict()

    def get(self, source: MediaSource) -> Medium:
        """The medium, decoded on first use.

        Raises:
            MediaError: It cannot be decoded; said again on every use, without another try.
        """
        key = _key(source)
        if key not in self._known:
            self._known[key] = self._load(key, source)
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        found = self._known[key]
        if isinstance(found, MediaError):
            raise MediaError(str(found))
        return found

    def _load(self, key: str, source: MediaSource) -> Medium | MediaError:
        try:
            frames, is_clip = self._decoded(source)
            return Medium(key, tuple(self._backbone.picture_from_image(frame) for frame in frames), is_clip)
        except MediaError as error:
            return error

    def _decoded(self, source: MediaSource) -> tuple[tuple[Image.Image, ...], bool]:
        if isinstance(source, Image.Image) or (isinstance(source, Media) and source.kind == "image"):
            return (load_image(source),), False
        frames = load_frames(source, self._frames_per_clip)
        return frames, len(frames) > 1 or (isinstance(source, Media) and source.kind == "clip")


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
