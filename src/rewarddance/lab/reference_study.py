"""Study of what stands in a reward model's context: the reference images.

Pictures of the lab's generator are rewarded against reference images of the same prompt, which the reward model itself
chose from other pictures of the generator: the best two of 2, 6 and 16, the worst two of 16, and the single best. Two
pictures are ordered by their rewards, and gold says which order is right. Nothing is learned here.

Source:
    RewardDance, arXiv:2509.08826, Table 8 (Best-of-16 Top-2, Best-of-6 Top-2, Best-of-2 Top-2, Best-of-16 Bottom-2).
    Differs: accuracy of the reward instead of human scores of a generator that was tuned with it. The models of
    `lab study paradigms` have learned questions about two images; three in one question are new to them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from rewarddance.core.errors import UsageError
from rewarddance.core.files import write_json_atomic
from rewarddance.core.media import load_image
from rewarddance.core.seeding import derive_seed, numpy_rng
from rewarddance.core.types import JudgementRequest
from rewarddance.data.prompts import PromptItem, read_prompts
from rewarddance.data.references import Kept, ReferenceStore
from rewarddance.generators.loading import load_generator
from rewarddance.generators.sampling import generate
from rewarddance.lab.alignment import HELD_OUT_NAME, TRAIN_NAME, write_prompts
from rewarddance.lab.base_models import BaseSize
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.lab.gold import judge_picture
from rewarddance.lab.learning import MIN_GOLD_DIFFERENCE
from rewarddance.lab.processes import make_all
from rewarddance.lab.prompts import parse_prompt
from rewarddance.lab.reward_study import COUNTS, SIZES, StudyRun, made_model
from rewarddance.lab.seeds import seed_interval
from rewarddance.metrics.agreement import correctness, mean_of_known
from rewarddance.metrics.bootstrap import paired_difference
from rewarddance.rewards.loading import load_reward_model
from rewarddance.rewards.protocol import ReferenceMode, RewardModel
from rewarddance.search.references import (
    MOST_CANDIDATES,
    Generate,
    TournamentSettings,
    candidate_seeds,
    make_references,
)

WayName = Literal[
    "best_of_2",
    "best_of_6",
    "best_of_16",
    "worst_of_16",
    "single_best_of_16",
    "best_of_2_together",
    "best_of_6_together",
    "best_of_16_together",
    "worst_of_16_together",
]


@dataclass(frozen=True, slots=True)
class Way:
    """Which reference images of a tournament are in the context, and how they are shown."""

    candidates: int
    count: int = 2
    kept: Kept = "top"
    mode: ReferenceMode = "one_by_one"


WAYS: Mapping[WayName, Way] = {
    "best_of_2": Way(2),
    "best_of_6": Way(6),
    "best_of_16": Way(16),
    "worst_of_16": Way(16, kept="bottom"),
    "single_best_of_16": Way(16, count=1),
    "best_of_2_together": Way(2, mode="together"),
    "best_of_6_together": Way(6, mode="together"),
    "best_of_16_together": Way(16, mode="together"),
    "worst_of_16_together": Way(16, kept="bottom", mode="together"),
}
DIRECT = "direct"
"""The two pictures in one question, without a reference image beside them."""
BASE: WayName = "best_of_2"
GOLD_NAME = "gold.json"

_BATCH = 64


@dataclass(frozen=True, slots=True)
class ReferenceCell:
    """One pairwise reward model, by what it was made of."""

    size: BaseSize
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.size}-{self.seed}"


@dataclass(frozen=True, slots=True)
class ReferenceStudy:
    """How the study is run.

    Attributes:
        folder: Where pictures, reference images and finished rows go; what is there is not made again.
        models: Folder of the runs of `lab study paradigms`.
        cells: Which reward models.
        comparisons: How many comparisons they learned from.
        prompts_per_kind: Prompts of each kind, at most.
        rewarded: Pictures of a prompt that are rewarded, beside those that may become reference images.
        ways: Which reference images, and how they are shown.
        jobs: Reward models at a time, one thread each.
    """

    folder: Path
    models: Path
    cells: tuple[ReferenceCell, ...]
    comparisons: int = COUNTS["train"]
    prompts_per_kind: int = 16
    rewarded: int = 8
    ways: tuple[WayName, ...] = tuple(WAYS)
    jobs: int = 2

    def model(self, cell: ReferenceCell) -> Path:
        """The reward model of a cell.

        Raises:
            UsageError: It was not made yet.
        """
        return made_model(self.models, StudyRun(cell.size, "pairwise", self.comparisons, cell.seed))

    def prompts(self) -> list[PromptItem]:
        """The same for every reward model."""
        folder = self.folder / "prompts"
        if not folder.is_dir():
            write_prompts(folder, 0, self.prompts_per_kind)
        return [item for name in (TRAIN_NAME, HELD_OUT_NAME) for item in read_prompts(folder / name)]

    def picture(self, prompt: int, sample: int) -> Path:
        """A picture of the generator; those that are rewarded stand behind those that may become references."""
        return self.folder / "pictures" / f"{prompt:03d}" / f"{sample:03d}.png"


def reference_cells(seeds: Sequence[int], sizes: Sequence[BaseSize] = SIZES) -> tuple[ReferenceCell, ...]:
    """Every reward model, those of the first seed first."""
    return tuple(ReferenceCell(size, seed) for seed, size in product(seeds, sizes))


def run_references(study: ReferenceStudy, on_done: Callable[[int], None] | None = None) -> list[dict[str, Any]]:
    """Reward the pictures with every model that has not done so; one row a cell, in their order."""
    draw_pictures(study)
    return make_all(partial(reward_against_references, study), study.cells, study.jobs, on_done)


def draw_pictures(study: ReferenceStudy) -> list[list[float]]:
    """Gold of every picture by prompt; the pictures themselves are drawn if they are not there yet."""
    path = study.folder / GOLD_NAME
    if path.is_file():
        stored: list[list[float]] = json.loads(path.read_text())
        return stored
    generator = load_generator(str(lab_generator()))
    gold = []
    for number, item in enumerate(study.prompts()):
        others = [derive_seed(0, "rewarded picture", item.prompt, sample) for sample in range(study.rewarded)]
        seeds = [*_seeds(item.prompt), *others]
        pixels = generate(generator, [item.prompt] * len(seeds), seeds, batch_size=_BATCH)
        pictures = (pixels.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().byte().numpy()
        for sample, picture in enumerate(pictures):
            target = study.picture(number, sample)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(target)
        gold.append([judge_picture(picture / 255, parse_prompt(item.prompt)).overall for picture in pictures])
    write_json_atomic(path, gold)
    return gold


def reward_against_references(study: ReferenceStudy, cell: ReferenceCell) -> dict[str, Any]:
    """One cell: log-odds of every pair of pictures by every way, in a process of its own.

    Returns:
        A row with, by way, `log_odds` that the second of a pair is better (by prompt, in the order of `combinations`)
        and the mean gold of the reference images.
    """
    torch.set_num_threads(1)
    kept = study.folder / "rows" / f"{cell.name}.json"
    if kept.is_file():
        stored: dict[str, Any] = json.loads(kept.read_text())
        return stored
    model, gold, items = load_reward_model(study.model(cell)), draw_pictures(study), study.prompts()
    rewarded = [
        [study.picture(place, MOST_CANDIDATES + n) for n in range(study.rewarded)] for place in range(len(items))
    ]
    asked = [(item.prompt, pictures) for item, pictures in zip(items, rewarded, strict=True)]
    log_odds = {DIRECT: [_direct(model, prompt, pictures) for prompt, pictures in asked]}
    reference_gold: dict[str, float] = {}
    ways = {name: WAYS[name] for name in study.ways}
    stores = {count: _references(study, cell, model, count) for count in {way.candidates for way in ways.values()}}
    for name, way in ways.items():
        shown = [_shown(stores[way.candidates], item.prompt, way) for item in items]
        log_odds[name] = [
            _against(model, prompt, pictures, [one.image for one in images], way.mode)
            for (prompt, pictures), images in zip(asked, shown, strict=True)
        ]
        places = [[_seeds(item.prompt).index(one.seed) for one in own] for item, own in zip(items, shown, strict=True)]
        reference_gold[name] = float(np.mean([gold[place][one] for place, own in enumerate(places) for one in own]))
    row = {**asdict(cell), "log_odds": log_odds, "reference_gold": reference_gold}
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(kept, row)
    return row


def reference_summary(
    rows: Sequence[Mapping[str, Any]], gold: Sequence[Sequence[float]], rewarded: int
) -> dict[str, Any]:
    """By size and way: accuracy on pairs that differ clearly, and the gain over references that are the best two of 2.

    Args:
        rows: Of `reward_against_references`.
        gold: Of every picture, by prompt; those that were rewarded stand last.
        rewarded: How many these are.
    """
    targets = _targets(gold, rewarded)
    prompts = np.repeat(np.arange(len(gold)), targets.shape[1])
    summary: dict[str, Any] = {}
    for size in dict.fromkeys(row["size"] for row in rows):
        own = [row for row in rows if row["size"] == size]
        right = {name: [_right(row, name, targets) for row in own] for name in own[0]["log_odds"]}
        summary[size] = {name: _figures(right[BASE], found, prompts) for name, found in right.items()}
        for name in own[0]["reference_gold"]:
            summary[size][name]["reference_gold"] = seed_interval([row["reference_gold"][name] for row in own])
    return summary


def accuracies(
    rows: Sequence[Mapping[str, Any]], gold: Sequence[Sequence[float]], rewarded: int
) -> list[dict[str, Any]]:
    """The rows as a results file has them: one accuracy a way; the arguments are those of `reference_summary`."""
    targets = _targets(gold, rewarded)
    return [
        {
            "size": row["size"],
            "seed": row["seed"],
            "accuracy": {name: mean_of_known(_right(row, name, targets)) for name in row["log_odds"]},
            "reference_gold": row["reference_gold"],
        }
        for row in rows
    ]


def _targets(gold: Sequence[Sequence[float]], rewarded: int) -> Float[np.ndarray, "prompts pairs"]:
    """1 where the second of a pair is truly better, 0 where the first is; not a number where gold hardly differs."""
    table = np.array([own[-rewarded:] for own in gold])
    differences = np.stack([table[:, second] - table[:, first] for first, second in _pairs(rewarded)], axis=1)
    return np.where(np.abs(differences) < MIN_GOLD_DIFFERENCE, np.nan, 0.5 + 0.5 * np.sign(differences))


def _right(row: Mapping[str, Any], name: str, targets: Float[np.ndarray, "prompts pairs"]) -> Float[np.ndarray, " all"]:
    return correctness(np.array(row["log_odds"][name], dtype=float).ravel(), targets.ravel())


def _figures(
    base: Sequence[Float[np.ndarray, " all"]], own: Sequence[Float[np.ndarray, " all"]], prompts: np.ndarray
) -> dict[str, Any]:
    """Over seeds; and over prompts, which are the same for every seed."""
    clusters = np.tile(prompts, len(own))
    pooled = paired_difference(np.concatenate(base), np.concatenate(own), clusters, numpy_rng(0, "reference study"))
    gains = [mean_of_known(one) - mean_of_known(other) for one, other in zip(own, base, strict=True)]
    return {
        "accuracy": seed_interval([mean_of_known(one) for one in own]),
        "gain": seed_interval(gains),
        "gain_by_prompt": asdict(pooled.interval),
        "p_value": pooled.p_value,
    }


def _pairs(count: int) -> list[tuple[int, int]]:
    return list(combinations(range(count), 2))


def _tournament(judge: str, candidates: int) -> TournamentSettings:
    # Candidates of fewer are the first of those of more: their seeds do not depend on how many there are.
    return TournamentSettings(
        "lab:drawn", judge, candidates=candidates, bottom=2 if candidates == MOST_CANDIDATES else 0
    )


def _seeds(prompt: str) -> list[int]:
    """Of a prompt's pictures that may become reference images."""
    return candidate_seeds(prompt, _tournament("", MOST_CANDIDATES))


def _references(study: ReferenceStudy, cell: ReferenceCell, model: RewardModel, candidates: int) -> ReferenceStore:
    """The model's own tournament among the first `candidates` pictures of every prompt."""
    folder = study.folder / "references" / f"{cell.name}-{candidates}"
    settings = _tournament(study.model(cell).parent.name, candidates)
    make_references(_drawn(study), model, study.prompts(), folder, settings)
    return ReferenceStore.open(folder)


def _drawn(study: ReferenceStudy) -> Generate:
    """Instead of a generator: its pictures, which are there already."""
    places = {item.prompt: place for place, item in enumerate(study.prompts())}

    def make(prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        pictures = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            path = study.picture(places[prompt], _seeds(prompt).index(seed))
            pictures.append(np.asarray(load_image(path)))
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255

    return make


@dataclass(frozen=True, slots=True)
class _Shown:
    """A reference image and the seed that it was drawn with."""

    image: Path
    seed: int


def _shown(store: ReferenceStore, prompt: str, way: Way) -> list[_Shown]:
    """Reference images of a prompt, best first or worst first."""
    row = store.get(prompt)
    if row is None or row.problem is not None:
        raise UsageError(f"{store.folder} has no reference images for {prompt!r}; delete it and start the study again")
    kept = [_Shown(one.image, one.seed) for one in row.candidates if one.image and one.kept == way.kept]
    return kept[: way.count] if way.kept == "top" else kept[::-1][: way.count]


def _against(
    model: RewardModel, prompt: str, pictures: Sequence[Path], images: Sequence[Path], mode: ReferenceMode
) -> list[float]:
    """Difference of the rewards of every pair, second minus first."""
    rewards = _rewards(model, [JudgementRequest(prompt, picture, tuple(images)) for picture in pictures], mode)
    return [rewards[second] - rewards[first] for first, second in _pairs(len(pictures))]


def _direct(model: RewardModel, prompt: str, pictures: Sequence[Path]) -> list[float]:
    """Log-odds that the second of every pair is better, asked about the two alone."""
    pairs = _pairs(len(pictures))
    return _rewards(model, [JudgementRequest(prompt, pictures[b], pictures[a]) for a, b in pairs], "one_by_one")


def _rewards(model: RewardModel, requests: Sequence[JudgementRequest], mode: ReferenceMode) -> list[float]:
    judgements = model.judge(requests, reference_mode=mode)
    failed = next((one for one in judgements if one.reward is None), None)
    if failed is not None:
        raise UsageError(f"a reward model could not judge a picture of the lab ({failed.status}: {failed.message})")
    return [one.reward for one in judgements if one.reward is not None]
