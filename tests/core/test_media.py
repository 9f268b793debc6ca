import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from rewarddance.core.errors import MediaError, OversizedMediaError
from rewarddance.core.media import MediaLimits, file_sha256, inspect_media, load_frames, load_image
from rewarddance.core.types import Media


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb_png(side: int) -> bytes:
    """A valid PNG of side x side black pixels, one bit each, of which no pixel was ever in memory."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def photo(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_clip(path: Path, frames: int = 12, size: tuple[int, int] = (64, 48)) -> Path:
    """Frame n is grey with level 20 n."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9" if path.suffix == ".webm" else "mpeg4", rate=8)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 20 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def animation(frames: int, image_format: str = "GIF") -> bytes:
    images = [Image.new("RGB", (20, 10), (20 * (number % 12), 0, 0)) for number in range(frames)]
    return saved(images[0], image_format, save_all=True, append_images=images[1:], duration=50)


@pytest.mark.parametrize("image_format", ["PNG", "BMP"])
def test_a_lossless_image_comes_back_pixel_for_pixel(image_format: str) -> None:
    assert np.array_equal(np.asarray(load_image(saved(photo(), image_format))), np.asarray(photo()))


def test_a_file_is_read_from_a_record_a_path_a_string_or_bytes_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(photo(), "PNG"))
    images = [np.asarray(load_image(source)) for source in (Media(path), path, str(path), path.read_bytes())]
    assert all(np.array_equal(image, np.asarray(photo())) for image in images)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    image = load_image(saved(photo(), "PNG", exif=exif))
    assert np.array_equal(np.asarray(image), np.rot90(np.asarray(photo()), -1))


def test_transparency_is_laid_on_white() -> None:
    # Half transparent black: 0.5 * 0 + 0.5 * 255 = 127.5; fully transparent: white.
    pixels = np.zeros((1, 2, 4), dtype=np.uint8)
    pixels[0, 0, 3] = 128
    image = np.asarray(load_image(saved(Image.fromarray(pixels), "PNG")))
    assert abs(int(image[0, 0, 0]) - 127) <= 1
    assert image[0, 1].tolist() == [255, 255, 255]


def test_a_transparent_palette_colour_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putdata([0, 1])
    shown = np.asarray(load_image(saved(image, "PNG", transparency=0)))
    assert shown[0].tolist() == [[255, 255, 255], [10, 20, 30]]


def test_sixteen_bit_grey_keeps_its_upper_byte() -> None:
    grey = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    image = np.asarray(load_image(saved(Image.fromarray(grey), "PNG")))
    assert image[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_becomes_rgb() -> None:
    image = load_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    red, green, blue = np.asarray(image)[4, 4]
    assert red > 240 and green < 15 and blue < 15


def test_an_animation_gives_its_first_frame() -> None:
    pixels = np.asarray(load_image(animation(3)))
    assert pixels.max() == 0


def damaged_files() -> dict[str, bytes]:
    jpeg, png, webp = (saved(photo(1, (200, 200)), kind) for kind in ("JPEG", "PNG", "WEBP"))
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    return {
        "empty": b"",
        "web page": b"<!DOCTYPE html><html><body>404</body></html>",
        "text": b"not an image at all",
        "truncated jpeg": jpeg[: len(jpeg) // 2],
        "truncated png": png[: len(png) // 2],
        "truncated webp": webp[: len(webp) // 2],
        "flipped png": bytes(flipped),
        "png signature only": png[:8],
        "jpeg start only": jpeg[:3],
        "tiff": saved(photo(), "TIFF"),
        "svg": b"<?xml version='1.0'?><svg/>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }


@pytest.mark.parametrize("kind", list(damaged_files()))
def test_a_damaged_file_is_one_line_without_addresses(kind: str) -> None:
    with pytest.raises(MediaError) as caught:
        load_image(damaged_files()[kind])
    message = str(caught.value)
    assert "\n" not in message
    assert "0x" not in message and "BytesIO" not in message


def test_every_truncation_of_an_image_is_an_image_or_a_media_error() -> None:
    for image_format in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        whole = saved(photo(2, (24, 24)), image_format)
        for length in range(1, len(whole), 7):
            try:
                load_image(whole[:length])
            except MediaError:
                continue


def test_random_bit_flips_are_an_image_or_a_media_error() -> None:
    rng = np.random.default_rng(3)
    for image_format in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        whole = saved(photo(2, (24, 24)), image_format)
        for _ in range(150):
            damaged = bytearray(whole)
            for position in rng.integers(0, len(whole), 4):
                damaged[position] = rng.integers(256)
            try:
                load_frames(bytes(damaged), 2)
            except MediaError:
                continue


def test_a_web_page_is_called_one() -> None:
    with pytest.raises(MediaError, match="web page"):
        load_image(b"\n <html>gone</html>")


def test_an_address_is_not_fetched() -> None:
    with pytest.raises(MediaError, match="nothing is fetched"):
        load_image("http://localhost/a.png")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone\.png: no such file"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(MediaError, match="not an ordinary file"):
        load_image(tmp_path)


def test_a_name_with_a_null_byte_is_a_media_error() -> None:
    with pytest.raises(MediaError):
        load_image("a\0b.png")


def test_a_900_megapixel_png_is_refused_from_its_header_in_milliseconds() -> None:
    bomb = bomb_png(30_000)
    assert len(bomb) < 1_000_000
    start = time.process_time()
    with pytest.raises(OversizedMediaError, match=r"900,000,000 pixels, over the limit of 64,000,000"):
        load_image(bomb)
    assert time.process_time() - start < 0.05


@pytest.mark.parametrize("side", [12_000, 30_000])
def test_refusing_a_bomb_takes_no_memory(tmp_path: Path, side: int) -> None:
    # 12,000 x 12,000 is below the size at which Pillow itself refuses.
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb_png(side))
    code = f"""
import resource, warnings
warnings.simplefilter("ignore")
from rewarddance.core.errors import MediaError
from rewarddance.core.media import load_image, load_frames
from PIL import Image
Image.init()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(8):
    for load in (load_image, lambda path: load_frames(path, 4)):
        try:
            load({str(path)!r})
        except MediaError:
            continue
        raise SystemExit("decoded")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50 * 1024  # kilobytes


def test_the_limit_of_pixels_is_exact() -> None:
    limits = MediaLimits(max_pixels=1200)
    assert load_image(saved(photo(0, (40, 30)), "PNG"), limits).size == (40, 30)
    with pytest.raises(OversizedMediaError):
        load_image(saved(photo(0, (41, 30)), "PNG"), limits)
    with pytest.raises(OversizedMediaError):
        load_image(photo(0, (41, 30)), limits)


def test_a_file_over_the_limit_of_bytes_is_refused() -> None:
    with pytest.raises(OversizedMediaError, match="bytes"):
        load_image(saved(photo(), "BMP"), MediaLimits(max_bytes=100))


@pytest.mark.parametrize("image_format", ["GIF", "WEBP"])
def test_frames_of_an_animation_are_evenly_spaced(image_format: str) -> None:
    frames = load_frames(animation(9, image_format), 3)
    # Frames 0, 4 and 8 have red levels 0, 80 and 160.
    assert [round(float(np.asarray(frame)[..., 0].mean()) / 20) for frame in frames] == [0, 4, 8]


def test_an_animation_over_the_limit_of_frames_is_refused() -> None:
    with pytest.raises(OversizedMediaError, match="13 frames"):
        load_frames(animation(13), 2, MediaLimits(max_frames=12))


def test_an_image_gives_one_frame() -> None:
    assert len(load_frames(saved(photo(), "PNG"), 8)) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi", ".mkv"])
def test_frames_of_a_clip_are_evenly_spaced(tmp_path: Path, suffix: str) -> None:
    clip = write_clip(tmp_path / f"clip{suffix}")
    frames = load_frames(clip, 4)
    # 12 frames: 0, 11/3 = 3.67, 7.33 and 11, rounded.
    assert [round(float(np.asarray(frame).mean()) / 20) for frame in frames] == [0, 4, 7, 11]


def test_a_clip_with_fewer_frames_than_asked_gives_every_frame_once(tmp_path: Path) -> None:
    assert len(load_frames(write_clip(tmp_path / "clip.mp4", frames=3), 8)) == 3


def test_one_frame_of_a_clip_is_its_middle(tmp_path: Path) -> None:
    (frame,) = load_frames(write_clip(tmp_path / "clip.mp4", frames=9), 1)
    assert round(float(np.asarray(frame).mean()) / 20) == 4


def test_a_clip_is_inspected_without_decoding(tmp_path: Path) -> None:
    facts = inspect_media(write_clip(tmp_path / "clip.mp4"))
    assert (facts.format, facts.width, facts.height, facts.frames, facts.fps) == ("mp4", 64, 48, 12, 8.0)


def test_clips_over_a_limit_are_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    with pytest.raises(OversizedMediaError, match="64 x 48"):
        load_frames(clip, 2, MediaLimits(max_frame_pixels=64 * 48 - 1))
    with pytest.raises(OversizedMediaError, match="limit of 11"):
        load_frames(clip, 2, MediaLimits(max_frames=11))


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi", ".mkv"])
def test_frames_are_counted_where_the_header_does_not_say_how_many_there_are(tmp_path: Path, suffix: str) -> None:
    clip = write_clip(tmp_path / f"clip{suffix}")
    assert inspect_media(clip, MediaLimits(max_frames=12), counts_frames=True).frames == 12
    with pytest.raises(OversizedMediaError, match="limit of 11"):
        inspect_media(clip, MediaLimits(max_frames=11), counts_frames=True)


def test_a_truncated_clip_is_a_media_error(tmp_path: Path) -> None:
    for suffix in (".mp4", ".webm", ".avi"):
        whole = write_clip(tmp_path / f"clip{suffix}", frames=12).read_bytes()
        for share in (0.1, 0.5):
            with pytest.raises(MediaError) as caught:
                frames = load_frames(whole[: int(len(whole) * share)], 4)
                # A cut stream without a frame count is a shorter stream, and whole for all that it says.
                if suffix == ".webm" and len(frames) == 4:
                    raise MediaError("shorter")
            assert "0x" not in str(caught.value)


def test_a_playlist_is_no_clip(tmp_path: Path) -> None:
    secret = write_clip(tmp_path / "secret.mp4")
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n")
    with pytest.raises(MediaError):
        load_frames(playlist, 2)


def test_without_pyav_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MediaError, match=r"rewarddance\[video\]"):
        load_frames(clip, 2)


def test_a_full_check_finds_what_the_header_hides() -> None:
    whole = saved(photo(1, (200, 200)), "JPEG")
    half = whole[: len(whole) // 2]
    assert inspect_media(half).width == 200
    with pytest.raises(MediaError, match="truncated"):
        inspect_media(half, full=True)


def test_equal_bytes_have_equal_hashes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).write_bytes(saved(photo(seed), "PNG"))
    a, b, c = (file_sha256(tmp_path / name) for name in "abc")
    assert a == b != c


def test_an_image_without_a_pixel_is_refused() -> None:
    with pytest.raises(MediaError, match="0 x 3, without a pixel"):
        load_image(Image.new("RGB", (0, 3)))


def test_an_image_of_floats_is_refused() -> None:
    with pytest.raises(MediaError, match="no brightest value"):
        load_image(Image.new("F", (4, 4), 1.0))
