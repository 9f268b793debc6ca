"""Study of over-optimisation without training: gold and proxy of the best of n, for every reward model of the lab.

The same samples of the same prompts are rewarded by every reward model of the paradigms study. The favourite of n is
estimated from all subsets of n, over the distance log n - (n - 1) / n, and fitted to d (alpha - beta d).

Source:
    Gao et al., arXiv:2210.10760, section 3, whose experiment RewardDance, arXiv:2509.08826, does not make.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rewarddance.core.errors import UsageError
from rewarddance.core.files import write_json_atomic
from rewarddance.core.seeding import derive_seed
from rewarddance.data.prompts import read_prompts
from rewarddance.evaluation.evaluation_file import package_versions
from rewarddance.evaluation.overoptimization import BestOfNCurve, CurveSettings, best_of_n_curve, write_curves
from rewarddance.evaluation.sample_rewards import reward_samples
from rewarddance.generators.loading import load_generator
from rewarddance.generators.sampling import generate
from rewarddance.lab.alignment import HELD_OUT_NAME, write_prompts
from rewarddance.lab.base_models import BaseSize
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.lab.gold import judge_picture
from rewarddance.lab.processes import make_all
from rewarddance.lab.prompts import parse_prompt
from rewarddance.lab.reward_study import COUNTS, SIZES, StudyRun, made_model
from rewarddance.lab.seeds import seed_interval
from rewarddance.rewards.loading import load_reward_model
from rewarddance.rewards.protocol import RewardKind

SAMPLES = 32
GOLD_NAME = "gold.json"

_KINDS: tuple[RewardKind, ...] = ("pairwise", "pointwise", "scalar")
_BATCH = 64


@dataclass(frozen=True, slots=True)
class CurveCell:
    """One reward model, by what it was made of."""

    size: BaseSize
    kind: RewardKind
    seed: int

    @property
    def name(self) -> str:
        """Of its file, and of its curve."""
        return f"{self.size}-{self.kind}-{self.seed}"


@dataclass(frozen=True, slots=True)
class CurveStudy:
    """How the study is run.

    Attributes:
        folder: Where samples and rewards go; finished ones there are not made again.
        models: Folder of the runs of `lab study paradigms`.
        cells: Which reward models.
        samples: Pictures of each prompt.
        jobs: Reward models at a time, one thread each.
    """

    folder: Path
    models: Path
    cells: tuple[CurveCell, ...]
    samples: int = SAMPLES
    jobs: int = 2

    def model(self, cell: CurveCell) -> Path:
        """The reward model of a cell.

        Raises:
            UsageError: It was not made yet.
        """
        return made_model(self.models, StudyRun(cell.size, cell.kind, COUNTS["train"], cell.seed))


def curve_cells(seeds: Sequence[int]) -> tuple[CurveCell, ...]:
    """Every reward model, those of the first seed first."""
    return tuple(CurveCell(size, kind, seed) for seed, size, kind in product(seeds, SIZES, _KINDS))


def run_curves(study: CurveStudy, on_done: Callable[[int], None] | None = None) -> list[BestOfNCurve]:
    """Reward the samples with every model that has not done so, and measure; one curve a cell, in order."""
    gold = _drawn(study)
    rewards = make_all(partial(_rewarded, study), study.cells, study.jobs, on_done)
    return [
        best_of_n_curve(
            cell.name,
            np.array(own, dtype=float),
            np.array(gold),
            CurveSettings(),
            facets={"size": cell.size, "paradigm": cell.kind, "seed": str(cell.seed)},
        )
        for cell, own in zip(study.cells, rewards, strict=True)
    ]


def write_curve_results(path: Path, curves: Sequence[BestOfNCurve]) -> dict[str, Any]:
    """Write `overoptimization.json`; returns the summary: by size and paradigm, means over seeds."""
    summary: dict[str, Any] = {}
    for name in dict.fromkeys(f"{curve.facets['size']} {curve.facets['paradigm']}" for curve in curves):
        own = [curve for curve in curves if f"{curve.facets['size']} {curve.facets['paradigm']}" == name]
        summary[name] = {
            "seeds": [int(curve.facets["seed"]) for curve in own],
            "gold_gain": {
                str(point.n): float(np.mean([curve.points[place].gold_gain.estimate for curve in own]))
                for place, point in enumerate(own[0].points)
            },
            "gold_gain_interval": {
                str(point.n): seed_interval([curve.points[place].gold_gain.estimate for curve in own])
                for place, point in enumerate(own[0].points)
            },
            "alpha": float(np.mean([curve.gold_law.fit.alpha for curve in own])),
            "beta": float(np.mean([curve.gold_law.fit.beta for curve in own])),
            "surely_bends": sum((curve.gold_law.beta.low or 0.0) > 0 for curve in own),
        }
    extra = {
        "study": "overoptimization",
        "command": "rewarddance lab study overoptimization",
        "versions": package_versions(),
        "summary": summary,
    }
    write_curves(path, curves, extra)
    return summary


def _prompts(study: CurveStudy) -> list[str]:
    folder = study.folder / "prompts-0"
    if not folder.is_dir():
        write_prompts(folder, 0)
    return [item.prompt for item in read_prompts(folder / HELD_OUT_NAME)]


def _drawn(study: CurveStudy) -> list[list[float]]:
    """Gold of every sample; the samples themselves are in `samples/`, with one more a prompt as reference image."""
    path = study.folder / GOLD_NAME
    if path.is_file():
        stored: list[list[float]] = json.loads(path.read_text())
        return stored
    generator = load_generator(str(lab_generator()))
    gold = []
    for number, prompt in enumerate(_prompts(study)):
        seeds = [derive_seed(0, "best of n", number, sample) for sample in range(study.samples + 1)]
        pixels = generate(generator, [prompt] * len(seeds), seeds, batch_size=_BATCH)
        pictures = (pixels.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().numpy()
        for sample, picture in enumerate(pictures):
            target = _picture(study, number, sample)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(target)
        judged = [judge_picture(picture / 255, parse_prompt(prompt)).overall for picture in pictures]
        gold.append(judged[: study.samples])
    write_json_atomic(path, gold)
    return gold


def _picture(study: CurveStudy, prompt: int, sample: int) -> Path:
    return study.folder / "samples" / f"{prompt:03d}" / f"{sample:03d}.png"


def _rewarded(study: CurveStudy, cell: CurveCell) -> list[list[float]]:
    """Log-odds of every sample by one reward model, in a process of its own."""
    torch.set_num_threads(1)
    kept = study.folder / "rewards" / f"{cell.name}.json"
    if kept.is_file():
        stored: list[list[float]] = json.loads(kept.read_text())
        return stored
    prompts = _prompts(study)
    samples = [[_picture(study, number, sample) for sample in range(study.samples)] for number in range(len(prompts))]
    references = None
    if cell.kind == "pairwise":
        references = [_picture(study, number, study.samples) for number in range(len(prompts))]
    found = reward_samples(load_reward_model(study.model(cell)), prompts, samples, references)
    if found.failures:
        first = found.failures[0]
        raise UsageError(f"{study.model(cell)} could not judge a sample of the lab ({first.status}: {first.message})")
    table: list[list[float]] = found.log_odds.tolist()
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(kept, table)
    return table
