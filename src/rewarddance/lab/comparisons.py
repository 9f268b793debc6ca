"""Comparisons of the lab on disk: pictures, noisy choices drawn from gold, and the gold behind them."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from rewarddance.core.files import errors_named, write_json_atomic
from rewarddance.core.seeding import numpy_rng
from rewarddance.core.types import Choice, Media
from rewarddance.data.comparisons import refuse_to_replace, write_comparisons
from rewarddance.data.prompt_rows import stored_settings
from rewarddance.data.records import ComparisonRecord
from rewarddance.lab.candidates import draw_candidate
from rewarddance.lab.gold import Gold, judge_picture
from rewarddance.lab.prompts import Domain, LabPrompt, sample_prompt
from rewarddance.lab.world import SEEN_FAULTS, UNSEEN_FAULTS, Pixels, to_uint8

Split = Literal["train", "validation", "test_in", "test_out"]
GOLD_NAME, DRAW_NAME = "gold.json", "draw.json"


@dataclass(frozen=True, slots=True)
class PreferenceNoise:
    """How people of the lab choose.

    Attributes:
        sharpness: Bradley-Terry slope: log-odds of preferring the second for a gold difference of 1. At 12, a
            difference of 0.1 is judged right 77 times in 100.
        tie_width: Gold difference over which the share of ties falls from one half (for equal gold) by a factor of e.
    """

    sharpness: float = 12.0
    tie_width: float = 0.03


@dataclass(frozen=True, slots=True)
class LabData:
    """A drawn data set.

    Attributes:
        folder: Where its comparisons are.
        gold: Per record id, gold of the first and of the second picture.
    """

    folder: Path
    gold: dict[str, tuple[float, float]]

    def count(self, split: Split) -> int:
        """How many comparisons a split has."""
        return sum(record_id.startswith(f"{split}-") for record_id in self.gold)

    def gold_difference(self, record_id: str) -> float:
        """Gold of the second picture minus gold of the first, in [-1, 1]."""
        first, second = self.gold[record_id]
        return second - first


def draw_comparisons(
    folder: Path,
    counts: dict[Split, int],
    seed: int = 0,
    noise: PreferenceNoise = PreferenceNoise(),
    on_drawn: Callable[[int], None] | None = None,
) -> LabData:
    """Draw comparisons and write them as a comparison folder, with `gold.json` and `draw.json` (settings) beside them.

    `train`, `validation` and `test_in` are in the domain: no held-out combination or count, only seen faults.
    `test_out` has prompts with held-out combinations or counts (of the kinds that can have them) and unseen faults.

    Args:
        folder: Made when missing.
        counts: Comparisons of each split.
        seed: Decides everything; the same comparison of a split does not depend on how many others are drawn.
        noise: How choices follow from gold.
        on_drawn: Called with the number of comparisons drawn so far.

    Raises:
        UsageError: The folder holds comparisons that were not drawn with these settings.
    """
    settings: dict[str, object] = {"seed": seed, "counts": dict(counts), "noise": asdict(noise)}
    if stored_settings(folder / DRAW_NAME) != settings:
        refuse_to_replace(folder)
    gold: dict[str, tuple[float, float]] = {}
    (folder / "media").mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / DRAW_NAME, settings)

    def records() -> Iterator[ComparisonRecord]:
        for split, count in counts.items():
            for number in range(count):
                record, truth = _draw_record(folder, split, number, numpy_rng(seed, split, number), noise)
                gold[record.id] = (truth[0].overall, truth[1].overall)
                if on_drawn is not None:
                    on_drawn(len(gold))
                yield record

    write_comparisons(folder, records())
    write_json_atomic(folder / GOLD_NAME, {name: list(pair) for name, pair in gold.items()})
    return LabData(folder, gold)


def open_drawn(folder: Path) -> LabData | None:
    """What `draw_comparisons` has written, or None if it did not finish there."""
    path = folder / GOLD_NAME
    if not path.is_file():
        return None
    return LabData(folder, {name: (pair[0], pair[1]) for name, pair in json.loads(path.read_text()).items()})


def choose(difference: float, rng: np.random.Generator, noise: PreferenceNoise) -> Choice:
    """One noisy choice for a gold difference, second minus first."""
    if rng.random() < 0.5 * math.exp(-abs(difference) / noise.tie_width):
        return "tie"
    prefers_second = 1 / (1 + math.exp(-noise.sharpness * difference))
    return "second" if rng.random() < prefers_second else "first"


def _draw_record(
    folder: Path, split: Split, number: int, rng: np.random.Generator, noise: PreferenceNoise
) -> tuple[ComparisonRecord, tuple[Gold, Gold]]:
    domain: Domain = "out" if split == "test_out" else "in"
    prompt = sample_prompt(rng, domain)
    pixels = [_picture(prompt, domain, rng) for _ in range(2)]
    first, second = (judge_picture(picture, prompt) for picture in pixels)
    media = []
    for place, picture in zip(("a", "b"), pixels, strict=True):
        path = Path("media") / f"{split}-{number:05d}-{place}.png"
        with errors_named(folder / path):
            Image.fromarray((picture * 255).round().astype(np.uint8)).save(folder / path)
        media.append(Media(path))
    record = ComparisonRecord(
        id=f"{split}-{number:05d}",
        prompt=prompt.text,
        candidates=(media[0], media[1]),
        choice=choose(second.overall - first.overall, rng, noise),
        dimensions={
            "alignment": choose(second.alignment - first.alignment, rng, noise),
            "quality": choose(second.quality - first.quality, rng, noise),
        },
        group_id=prompt.text,
        split=split,
        source=f"lab-{prompt.kind}",
    )
    return record, (first, second)


def _picture(prompt: LabPrompt, domain: Domain, rng: np.random.Generator) -> Pixels:
    """A candidate's pixels as a file stores them."""
    is_out = domain == "out"
    candidate = draw_candidate(prompt, rng, avoid_held_out=not is_out, faults=UNSEEN_FAULTS if is_out else SEEN_FAULTS)
    return to_uint8(candidate.pixels) / 255
