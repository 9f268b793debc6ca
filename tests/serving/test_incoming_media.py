"""Bombs: files of a few hundred kilobytes that are gigabytes once decoded. Memory is watched while they are refused."""

import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from rewarddance.serving.fetching import Fetcher
from rewarddance.serving.incoming_media import read_medium
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.refusals import RefusedError
from tests.serving.stand_in import data_uri, png

LIMITS = ServiceLimits().media
MIB = 2**20


def huge_png(side: int) -> bytes:
    """A PNG of one colour, written without ever holding its pixels."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + side * 3)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def long_gif(frames: int) -> bytes:
    images = [Image.new("P", (8, 8), number % 255) for number in range(frames)]
    file = BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=10, optimize=False)
    return file.getvalue()


def lying_jpeg() -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def lying_webp() -> bytes:
    # The extended header of WebP has 24 bits for each side.
    header = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xff\x3f\x00" * 2
    return b"RIFF" + struct.pack("<I", 4 + len(header)) + b"WEBP" + header


BOMBS = {
    "png of 144 megapixels": (lambda: huge_png(12_000), "media_too_large"),
    "gif of 10,000 frames": (lambda: long_gif(10_000), "media_too_large"),
    "jpeg that lies": (lying_jpeg, "media_too_large"),
    "webp that lies": (lying_webp, "media_too_large|unreadable_media"),
}


def read(data: bytes, limits=LIMITS) -> bytes:
    return read_medium(data_uri(data), {}, limits, Fetcher(), "candidate")


@dataclass
class Growth:
    bytes: int = 0


@contextmanager
def memory_growth() -> Iterator[Growth]:
    """The highest resident size while the block runs, above that before it."""
    growth, process, stop = Growth(), psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not stop.is_set():
            growth.bytes = max(growth.bytes, process.memory_info().rss - before)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield growth
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_from_its_header(name: str):
    make, codes = BOMBS[name]
    data = make()
    with memory_growth() as growth:
        for _ in range(4):
            with pytest.raises(RefusedError) as caught:
                read(data)
            assert caught.value.code.value in codes.split("|")

    assert growth.bytes < 50 * MIB


@pytest.mark.slow
def test_a_bomb_of_900_megapixels_is_refused():
    data = huge_png(30_000)
    with memory_growth() as growth, pytest.raises(RefusedError, match="pixels"):
        read(data)

    assert growth.bytes < 50 * MIB


def test_without_the_limit_of_pixels_the_bomb_would_pass():
    data = huge_png(5_000)
    with pytest.raises(RefusedError):
        read(data)

    assert read(data, replace(LIMITS, max_pixels=10**9)) == data


def test_without_the_limit_of_frames_the_animation_would_pass():
    data = long_gif(700)
    with pytest.raises(RefusedError):
        read(data)

    assert read(data, replace(LIMITS, max_frames=10**6)) == data


def test_a_medium_over_its_share_of_bytes_is_refused():
    data = png(size=(64, 64))

    assert read(data, replace(LIMITS, max_bytes=len(data))) == data
    with pytest.raises(RefusedError, match="more bytes"):
        read(data, replace(LIMITS, max_bytes=len(data) - 1))


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\0\0\0\0WEBP", b"<svg/>", b"%PDF-1.7", b"\x00" * 64]
)
def test_what_is_no_image_is_refused_without_the_words_of_a_decoder(data: bytes):
    with pytest.raises(RefusedError) as caught:
        read(data)

    assert caught.value.body["error"]["message"] == "a medium cannot be decoded"
    assert caught.value.__cause__ is None


def test_a_clip_that_does_not_say_how_long_it_is_has_its_frames_counted():
    # Matroska declares no number of frames; believed, 601 of them would be decoded in the engine's only thread.
    file = BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), dtype=np.uint8), format="rgb24")
        for _ in range(LIMITS.max_frames + 1):
            container.mux(stream.encode(picture))
        container.mux(stream.encode())

    with pytest.raises(RefusedError, match="more bytes, pixels or frames"):
        read_medium(data_uri(file.getvalue()), {}, LIMITS, Fetcher(), "candidate")
    one_more = replace(LIMITS, max_frames=LIMITS.max_frames + 1)
    assert read_medium(data_uri(file.getvalue()), {}, one_more, Fetcher(), "candidate") == file.getvalue()
