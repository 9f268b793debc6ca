"""Images and clips from files or bytes that nobody has checked, decoded within limits.

The size of an image is read from its header and compared with the limits before a pixel is decoded: a PNG of
900 megapixels is a file of 900 kB and would take 2.7 GB of memory. Only five formats are ever opened, because a
decoder that is not reached cannot be attacked. Every failure is a `MediaError` of one line in our own words: the
decoders' words can hold memory addresses.

What becomes of the less usual images: EXIF rotation is applied; transparency is laid on white; 16-bit grey keeps its
upper byte, as Pillow does for 16-bit colour; palette, CMYK and 1-bit images become RGB; an animation gives its
first frame; colour profiles are ignored, as the vision-language models' own preprocessing does.
"""

import os
import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rewarddance.core.clips import CLIP_SUFFIXES, OpenFile, frame_positions, open_clip
from rewarddance.core.errors import MediaError, OversizedMediaError, UsageError
from rewarddance.core.files import sha256_of
from rewarddance.core.types import Media

__all__ = [
    "CLIP_SUFFIXES",
    "DEFAULT_LIMITS",
    "IMAGE_FORMATS",
    "MediaFacts",
    "MediaLimits",
    "MediaSource",
    "file_sha256",
    "inspect_media",
    "load_frames",
    "load_image",
    "refuse_other_sources",
]

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

MediaSource = Media | Path | str | bytes | Image.Image
"""A record, a path, the bytes of a file, or an image that is decoded already. A string is a path, never an address."""

# What Pillow raises on damaged files, found by damaging files; UserWarning because warnings may be errors.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    UserWarning,
    struct.error,
    zlib.error,
)
_PILLOW_REFUSALS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_HEAD_BYTES = 32


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What is decoded at most. A request may lower these numbers, never raise them.

    Attributes:
        max_pixels: Pixels of an image, width times height. Pillow's own ceiling of 89,478,485 holds above it.
        max_bytes: Bytes of a file, image or clip.
        max_frames: Frames of a clip or animation; 3,600 are two minutes at 30 a second.
        max_frame_pixels: Pixels of one frame of a clip or animation; the default is one 4096 x 2160 frame.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = 256 * 2**20
    max_frames: int = 3_600
    max_frame_pixels: int = 4096 * 2160


DEFAULT_LIMITS = MediaLimits()


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """What the header of a file says.

    Attributes:
        format: Name of the format, such as PNG or mp4.
        width: Pixels.
        height: Pixels.
        frames: 1 for an image; for a clip what its container declares, None when it does not say.
        fps: Frames per second of a clip, None when unknown.
    """

    format: str
    width: int
    height: int
    frames: int | None = 1
    fps: float | None = None


def load_image(source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode one image; of an animation, its first frame.

    Args:
        source: Where the image is.
        limits: Checked against the header, before decoding.

    Returns:
        Mode RGB, upright, transparency laid on white.

    Raises:
        MediaError: The file is missing, empty, damaged, of another format, or over a limit.
        UsageError: It is no medium in any form; see `refuse_other_sources`.
    """
    if isinstance(source, Image.Image):
        _check_pixels(source.size, limits.max_pixels, "the image")
        return _to_rgb(source, "the image")
    name = _name_of(source)
    with _open_file(source, limits) as file, _open_header(file, name, limits.max_pixels) as image:
        return _to_rgb(image, name)


def load_frames(source: MediaSource, count: int, limits: MediaLimits = DEFAULT_LIMITS) -> tuple[Image.Image, ...]:
    """Evenly spaced frames of a clip or animation, the first and the last included; an image gives one frame.

    Args:
        source: A clip (mp4, mov, webm, mkv, avi), an animated GIF or WEBP, or an image.
        count: Number of frames, at least 1; 1 gives the middle frame. A clip with fewer frames gives all it has.
        limits: Checked against the header, before decoding.

    Returns:
        Frames in mode RGB, in the order of time. Rotation marks of a container are not applied.

    Raises:
        MediaError: As `load_image`; or the clip needs PyAV, which is not installed.
    """
    if count < 1:
        raise MediaError(f"{count} frames were asked for; ask for 1 or more")
    if isinstance(source, Image.Image):
        return (load_image(source, limits),)
    name = _name_of(source)
    with _open_file(source, limits) as file:
        if _is_clip(file):
            with open_clip(file, name, limits.max_frames, limits.max_frame_pixels) as clip:
                return clip.frames(count)
        with _open_header(file, name, limits.max_pixels) as image:
            frames = _count_frames(image, name, limits)
            return tuple(_frame_at(image, index, name, limits) for index in frame_positions(frames, count))


def inspect_media(
    source: MediaSource, limits: MediaLimits = DEFAULT_LIMITS, full: bool = False, counts_frames: bool = False
) -> MediaFacts:
    """Check a file's header against the limits, in a millisecond and without decoding.

    Args:
        source: Where the image or clip is.
        limits: What is allowed.
        full: Decode it too, which alone finds truncated and damaged data; a clip is decoded to its last frame.
        counts_frames: Count the frames of a clip, which takes longer: a header may declare too few, or nothing at all.

    Raises:
        MediaError: What `load_image` or `load_frames` would say.
    """
    if isinstance(source, Image.Image):
        _check_pixels(source.size, limits.max_pixels, "the image")
        return MediaFacts(source.format or "image", *source.size)
    name = _name_of(source)
    with _open_file(source, limits) as file:
        if _is_clip(file):
            with open_clip(file, name, limits.max_frames, limits.max_frame_pixels) as clip:
                frames = clip.count_frames() if counts_frames else clip.declared_frames
                facts = MediaFacts(clip.format, clip.width, clip.height, frames, clip.fps)
        else:
            with _open_header(file, name, limits.max_pixels) as image:
                frames = _count_frames(image, name, limits) if image.format in ("GIF", "WEBP") else 1
                facts = MediaFacts(image.format or "image", *image.size, frames)
    if full:
        load_frames(source, 2, limits)
    return facts


def refuse_other_sources(source: object) -> None:
    """Stop at what is no medium in any form.

    Raises:
        UsageError: Such as an array, a tensor or an open file.
    """
    if not isinstance(source, Media | os.PathLike | str | bytes | Image.Image):
        raise UsageError(
            f"{type(source).__name__} is no image or clip; give a path, the bytes of a file, or a PIL image "
            "(Image.fromarray takes an array of bytes)"
        )


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes: two files with one digest are the same medium."""
    return sha256_of(path)


def _name_of(source: Media | Path | str | bytes) -> str:
    refuse_other_sources(source)
    if isinstance(source, bytes):
        return f"the file of {len(source):,} bytes"
    return str(source.path if isinstance(source, Media) else source)


def _open_file(source: Media | Path | str | bytes, limits: MediaLimits) -> OpenFile:
    name = _name_of(source)
    if isinstance(source, bytes):
        size = len(source)
    else:
        path = source.path if isinstance(source, Media) else Path(source)
        if isinstance(source, str) and "://" in source:
            raise MediaError(f"{name}: an address, and nothing is fetched; give a file")
        size = _size_of(path, name)
    if size == 0:
        raise MediaError(f"{name}: the file is empty")
    if size > limits.max_bytes:
        raise OversizedMediaError(f"{name}: {size:,} bytes, over the limit of {limits.max_bytes:,}")
    if isinstance(source, bytes):
        return BytesIO(source)
    try:
        return path.open("rb")
    except OSError as error:
        raise MediaError(f"{name}: cannot be opened ({error.strerror})") from None


def _size_of(path: Path, name: str) -> int:
    try:
        # A pipe or a device would never end, so only ordinary files are opened.
        if path.is_file():
            return path.stat().st_size
        is_there = path.exists()
    except (OSError, ValueError):
        raise MediaError(f"{name!r}: not a usable file name") from None
    raise MediaError(f"{name}: not an ordinary file" if is_there else f"{name}: no such file")


def _head_of(file: OpenFile) -> bytes:
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    return head


def _is_clip(file: OpenFile) -> bool:
    head = _head_of(file)
    is_avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or is_avi


def _open_header(file: OpenFile, name: str, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(file, formats=IMAGE_FORMATS)
    except _PILLOW_REFUSALS as refusal:
        found = re.search(r"\((\d+) pixels\)", str(refusal))
        pixels = f"{int(found.group(1)):,}" if found else "too many"
        raise OversizedMediaError(f"{name}: {pixels} pixels, over the limit of {max_pixels:,}") from None
    except UnidentifiedImageError:
        raise MediaError(f"{name}: {_what_it_is(_head_of(file))}") from None
    except _DECODER_ERRORS:
        raise MediaError(f"{name}: the header is damaged") from None
    _check_pixels(image.size, max_pixels, name)
    return image


def _what_it_is(head: bytes) -> str:
    wanted = f"not a {', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]} image"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return f"{wanted} but a web page, perhaps of a failed download"
    return wanted


def _check_pixels(size: tuple[int, int], max_pixels: int, name: str) -> None:
    pixels = size[0] * size[1]
    if pixels == 0:
        raise MediaError(f"{name}: {size[0]} x {size[1]}, without a pixel")
    if pixels > max_pixels:
        raise OversizedMediaError(
            f"{name}: {size[0]} x {size[1]} = {pixels:,} pixels, over the limit of {max_pixels:,}"
        )


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        # Pillow would take 1 for nearly black.
        raise MediaError(f"{name}: floats (mode F) have no brightest value; give an image of 8 or 16 bits")
    try:
        image.load()
        upright = _upright(image)
        if upright.mode.startswith("I"):
            # Pillow's own conversion to 8 bits clips at 255, which makes a 16-bit photograph white.
            grey = np.asarray(upright).astype(np.int64) >> 8
            upright = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
        if upright.has_transparency_data:
            layer = upright.convert("RGBA")
            white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, layer).convert("RGB")
        # A plain RGB image is copied, so that what is returned never depends on an open file.
        return upright.convert("RGB") if upright.mode != "RGB" else upright.copy()
    except _PILLOW_REFUSALS:
        raise OversizedMediaError(f"{name}: a frame is larger than the image declares") from None
    except _DECODER_ERRORS:
        raise MediaError(f"{name}: the data is truncated or damaged") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DECODER_ERRORS:
        # A damaged EXIF block says nothing about the rotation; the pixels are whole.
        return image


def _count_frames(image: Image.Image, name: str, limits: MediaLimits) -> int:
    # Counting the frames of a GIF reads the whole file, so a still one is left alone.
    try:
        frames = int(getattr(image, "n_frames", 1)) if getattr(image, "is_animated", False) else 1
    except _PILLOW_REFUSALS:
        raise OversizedMediaError(f"{name}: a frame is larger than the image declares") from None
    except _DECODER_ERRORS:
        raise MediaError(f"{name}: the data is truncated or damaged") from None
    if frames > limits.max_frames:
        raise OversizedMediaError(f"{name}: {frames:,} frames, over the limit of {limits.max_frames:,}")
    if frames > 1:
        _check_pixels(image.size, limits.max_frame_pixels, name)
    return frames


def _frame_at(image: Image.Image, index: int, name: str, limits: MediaLimits) -> Image.Image:
    if index:
        try:
            image.seek(index)
        except _PILLOW_REFUSALS:
            raise OversizedMediaError(f"{name}: a frame is larger than the image declares") from None
        except _DECODER_ERRORS:
            raise MediaError(f"{name}: the data is truncated or damaged") from None
        _check_pixels(image.size, limits.max_frame_pixels, name)
    return _to_rgb(image, name)
