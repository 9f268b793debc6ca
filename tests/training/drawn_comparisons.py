"""Comparisons of small drawn images: the brighter one is better. Enough for a tiny model to learn in seconds."""

from pathlib import Path

import numpy as np
from PIL import Image

from rewarddance.core.types import Comparison, Media

SIDE = 32


def draw_comparisons(folder: Path, count: int, seed: int = 0) -> list[Comparison]:
    """Write the images as PNG and judge them by their mean brightness."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    return [_comparison(folder, f"{seed}-{number}", rng) for number in range(count)]


def _comparison(folder: Path, name: str, rng: np.random.Generator) -> Comparison:
    levels = rng.permutation([60.0, 190.0])
    media = [_image(folder / f"{name}-{place}.png", level, rng) for place, level in enumerate(levels)]
    return Comparison(
        id=name,
        prompt="a red square",
        first=media[0],
        second=media[1],
        choice="second" if levels[1] > levels[0] else "first",
    )


def _image(path: Path, level: float, rng: np.random.Generator) -> Media:
    noise = rng.normal(level, 20, (SIDE, SIDE, 3))
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)
    return Media(path)
