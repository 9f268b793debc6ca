"""Real photographs with graded faults, written out as a published HPDv3 folder.

The photos are those that scikit-image carries; the faults are JPEG, blur and noise at graded severities, and of two
versions of one crop the less faulty is preferred. Some photos are held out whole, so that the test asks about
pictures of which no part was seen in training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from rewarddance.core.errors import UsageError
from rewarddance.core.files import errors_named, write_json_atomic
from rewarddance.core.seeding import numpy_rng
from rewarddance.data.prompt_rows import stored_settings

TRAIN_PHOTOS = ("astronaut", "coffee", "rocket", "camera", "hubble_deep_field", "brick", "grass", "retina", "cell")
TEST_PHOTOS = ("chelsea", "coins", "gravel", "immunohistochemistry")
FAULTS = ("jpeg", "blur", "noise")
CROP = 32  # pixels a side, as stored
SETTINGS_NAME = "photos.json"


@dataclass(frozen=True, slots=True)
class PhotoPair:
    """A row to be written: two versions of one crop, the better first, as HPDv3 has it."""

    prompt: str
    better: Image.Image
    worse: Image.Image
    fault: str


def write_photo_folder(
    folder: Path, train: int, test: int, seed: int = 0, on_written: Callable[[int], None] | None = None
) -> None:
    """Write `train.json`, `test.json` and `images/` in HPDv3's layout.

    Args:
        folder: Made when missing.
        train: Rows from the training photos.
        test: Rows from the held-out photos.
        seed: Decides crops and faults.
        on_written: Called with the number of rows written so far.

    Raises:
        UsageError: The folder holds such files that were not written with these settings.
    """
    settings = {"seed": seed, "train": train, "test": test}
    if stored_settings(folder / SETTINGS_NAME) != settings:
        for name in ("train.json", "test.json"):
            if (folder / name).exists():
                raise UsageError(f"{folder} holds a {name} already, of other settings; choose another folder")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / SETTINGS_NAME, settings)
    written = 0
    for split, names, count in (("train", TRAIN_PHOTOS, train), ("test", TEST_PHOTOS, test)):
        rows = []
        for number in range(count):
            pair = draw_pair(names, numpy_rng(seed, "photos", split, number))
            paths = [f"images/{split}-{number:05d}-{place}.png" for place in ("x", "y")]
            for path, picture in zip(paths, (pair.better, pair.worse), strict=True):
                with errors_named(folder / path):
                    picture.save(folder / path)
            row: dict[str, object] = {
                "prompt": pair.prompt,
                "path1": paths[0],
                "path2": paths[1],
                "model1": "photo",
                "model2": pair.fault,
            }
            if split == "train":
                row |= {"choice_dist": [10, 0], "confidence": 1.0}
            rows.append(row)
            written += 1
            if on_written is not None:
                on_written(written)
        write_json_atomic(folder / f"{split}.json", rows)


def draw_pair(names: tuple[str, ...], rng: np.random.Generator) -> PhotoPair:
    """Two versions of a random crop that differ clearly in the severity of one fault."""
    name = names[rng.integers(len(names))]
    photo = load_photo(name)
    side = int(rng.integers(CROP, 4 * CROP))
    left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
    crop = photo.crop((left, top, left + side, top + side)).resize((CROP, CROP), Image.Resampling.BICUBIC)
    fault = FAULTS[rng.integers(len(FAULTS))]
    mild = float(rng.uniform(0, 0.5))
    severe = float(rng.uniform(mild + 0.35, 1.0))
    better, worse = (spoil_photo(crop, fault, level, rng) for level in (mild, severe))
    return PhotoPair(f"a photo of {name}", better, worse, fault)


def spoil_photo(photo: Image.Image, fault: str, severity: float, rng: np.random.Generator) -> Image.Image:
    """One fault at a severity in [0, 1]; at 0 the photo is as good as untouched."""
    match fault:
        case "jpeg":
            buffer = BytesIO()
            photo.save(buffer, "JPEG", quality=round(90 * (1 - severity) ** 2 + 2))
            return Image.open(BytesIO(buffer.getvalue())).convert("RGB")
        case "blur":
            return photo.filter(ImageFilter.GaussianBlur(1.8 * severity))
        case _:
            pixels = np.asarray(photo, dtype=float) + rng.normal(0, 60 * severity, (CROP, CROP, 3))
            return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def load_photo(name: str) -> Image.Image:
    """One of scikit-image's photos as RGB; needs the extra `rewarddance[photos]`."""
    try:
        from skimage import data
    except ImportError as error:
        raise UsageError("the photographs come with scikit-image; install rewarddance[photos]") from error

    pixels: UInt8[np.ndarray, "height width *channels"] = getattr(data, name)()
    return Image.fromarray(pixels).convert("RGB")
