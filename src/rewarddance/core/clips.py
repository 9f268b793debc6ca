"""Frames of a clip through PyAV, the extra `rewarddance[video]`.

The container's format is decided here from its first bytes and named to the decoder. Left to guess, it would also open
playlists, which name other files and addresses. The size of the frames is read from the header before a frame is
decoded, and every loop ends at the limit of frames, whatever the container declares.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from typing import Any

from PIL import Image

from rewarddance.core.errors import MediaError, OversizedMediaError

OpenFile = BufferedReader | BytesIO

CLIP_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi"})

_TRUNCATED_SHARE = 0.9
"""A decoder may hold back a frame or two; below this share of the declared frames the clip is truncated."""


@dataclass(frozen=True, slots=True)
class OpenClip:
    """A clip whose header has been read and is within the limits."""

    container: Any
    stream: Any
    name: str
    format: str
    max_frames: int
    max_frame_pixels: int

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.stream.codec_context.width)

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.stream.codec_context.height)

    @property
    def fps(self) -> float | None:
        """Frames per second, None when the container does not say."""
        return None if self.stream.average_rate is None else float(self.stream.average_rate)

    @property
    def declared_frames(self) -> int | None:
        """Number of frames in the header, None when the container does not say."""
        return int(self.stream.frames) or None

    def frames(self, count: int) -> tuple[Image.Image, ...]:
        """Evenly spaced frames; see `rewarddance.core.media.load_frames`."""
        total = self.count_frames()
        if self.declared_frames is not None and total < self.declared_frames * _TRUNCATED_SHARE:
            raise MediaError(f"{self.name}: truncated, {total} of {self.declared_frames} frames are there")
        positions = frame_positions(total, count)
        frames, decoded = self._decode(positions)
        if len(frames) == len(positions):
            return frames
        if decoded < total * _TRUNCATED_SHARE:
            raise MediaError(f"{self.name}: damaged, {decoded} of {total} frames can be decoded")
        self.container.seek(0)
        return self._decode(frame_positions(decoded, count))[0]

    def count_frames(self) -> int:
        """Frames that are there, whatever the header says; reads the file through, and decodes nothing.

        Raises:
            MediaError: None, or over the limit.
        """
        total = 0
        for packet in self.container.demux(self.stream):
            total += bool(packet.size) and not packet.is_discard
            if total > self.max_frames:
                raise OversizedMediaError(f"{self.name}: over the limit of {self.max_frames:,} frames")
        if total == 0:
            raise MediaError(f"{self.name}: the clip holds no frames")
        self.container.seek(0)
        return total

    def _decode(self, positions: tuple[int, ...]) -> tuple[tuple[Image.Image, ...], int]:
        frames: list[Image.Image] = []
        wanted = frozenset(positions)
        decoded = 0
        for frame in self.container.decode(self.stream):
            if frame.width * frame.height > self.max_frame_pixels or decoded >= self.max_frames:
                raise OversizedMediaError(f"{self.name}: more or larger frames than the header declares")
            if decoded in wanted:
                frames.append(frame.to_image())
            decoded += 1
            if len(frames) == len(positions):
                break
        return tuple(frames), decoded


def frame_positions(total: int, count: int) -> tuple[int, ...]:
    """Which frames to take: evenly spaced, first and last included.

    Args:
        total: Frames of the clip.
        count: Frames wanted; 1 gives the middle one, more than `total` gives every frame once.
    """
    if count == 1:
        return (total // 2,)
    if count >= total:
        return tuple(range(total))
    return tuple(round(index * (total - 1) / (count - 1)) for index in range(count))


@contextmanager
def open_clip(file: OpenFile, name: str, max_frames: int, max_frame_pixels: int) -> Iterator[OpenClip]:
    """Open a clip and check its header.

    Args:
        file: An mp4, mov, webm, mkv or avi file.
        name: How messages call it.
        max_frames: Limit on the declared and on the decoded frames.
        max_frame_pixels: Limit on the pixels of one frame.

    Raises:
        MediaError: PyAV is missing, or the clip is damaged or over a limit; also for what fails inside the `with`.
    """
    try:
        import av
    except ImportError:
        raise MediaError(f"{name}: clips need PyAV; install `rewarddance[video]`") from None
    container_format = _container_format(file)
    try:
        with av.open(file, mode="r", format=container_format) as container:
            if not container.streams.video:
                raise MediaError(f"{name}: holds no video")
            stream = container.streams.video[0]
            clip = OpenClip(container, stream, name, container_format, max_frames, max_frame_pixels)
            _check_header(clip)
            yield clip
    except (av.FFmpegError, ValueError, MemoryError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{name}: the clip is truncated or damaged") from None


def _check_header(clip: OpenClip) -> None:
    pixels = clip.width * clip.height
    if pixels > clip.max_frame_pixels:
        size = f"{clip.width} x {clip.height}"
        limit = f"{clip.max_frame_pixels:,}"
        raise OversizedMediaError(f"{clip.name}: frames of {size} = {pixels:,} pixels, over the limit of {limit}")
    if clip.declared_frames is not None and clip.declared_frames > clip.max_frames:
        raise OversizedMediaError(
            f"{clip.name}: {clip.declared_frames:,} frames, over the limit of {clip.max_frames:,}"
        )


def _container_format(file: OpenFile) -> str:
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    return "avi" if head[:4] == b"RIFF" else "mp4"
