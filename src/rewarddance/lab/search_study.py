"""Study of test-time search in the lab: what each algorithm finds for the same function evaluations, by gold.

Every verifier is a pointwise reward model of the paradigms study, as in the paper. Algorithms meet on the same prompts
with the same initial noise, so their golds are compared prompt by prompt; and at three budgets, which gives a frontier
of gold over function evaluations.

Source:
    RewardDance, arXiv:2509.08826, section 3.4 and Table 2 (test-time scaling by size of the reward model).
    Differs: gold instead of human scores; best of N and particles at the same cost beside the search over paths; the
    paper names no noise levels, paths or branches.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from rewarddance.core.errors import UsageError
from rewarddance.core.files import write_json_atomic
from rewarddance.core.seeding import numpy_rng
from rewarddance.data.prompts import read_prompts
from rewarddance.evaluation.evaluation_file import package_versions
from rewarddance.generators.loading import load_generator
from rewarddance.generators.protocol import Generator
from rewarddance.lab.alignment import HELD_OUT_NAME, write_prompts
from rewarddance.lab.base_models import BaseSize
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.lab.gold import judge_picture
from rewarddance.lab.processes import make_all
from rewarddance.lab.prompts import parse_prompt
from rewarddance.lab.reward_study import COUNTS, SIZES, StudyRun, made_model
from rewarddance.metrics.bootstrap import Interval, bootstrap_mean
from rewarddance.rewards.loading import load_reward_model
from rewarddance.search.bench import Drawing
from rewarddance.search.best_of_n import BestOfNSettings, affordable_candidates, covering_candidates
from rewarddance.search.particles import ParticleSettings
from rewarddance.search.path_search import PathSettings, path_budget
from rewarddance.search.results import SearchResult
from rewarddance.search.running import Search
from rewarddance.search.verification import Verifier

WayName = Literal["single", "best_of_n", "best_of_more", "paths", "particles"]

WAYS: tuple[WayName, ...] = ("single", "best_of_n", "best_of_more", "paths", "particles")
"""`best_of_n` spends at least as many velocities as the search over paths, `best_of_more` at least as many evaluations
of all kinds; `particles` spends no more velocities than it."""

ScaleName = Literal["half", "whole", "double"]

TREES: dict[ScaleName, PathSettings] = {
    "half": PathSettings(paths=2, branches=2, starts=8),
    "whole": PathSettings(),
    "double": PathSettings(paths=6, branches=3, starts=24),
}
"""The search over paths at each budget: 64, 126 and 252 velocities at the lab's eight denoising steps."""

FRONTIER_WAYS: tuple[WayName, ...] = ("best_of_n", "paths", "particles")
"""What is made at the other budgets too."""

_BATCH = 64


@dataclass(frozen=True, slots=True)
class SearchCell:
    """One search over all prompts: how, with which verifier, for what."""

    size: BaseSize
    way: WayName
    seed: int
    scale: ScaleName = "whole"

    @property
    def name(self) -> str:
        """Name of its file."""
        scale = "" if self.scale == "whole" else f"-{self.scale}"
        return f"{self.size}-{self.way}-{self.seed}{scale}"


@dataclass(frozen=True, slots=True)
class SearchStudy:
    """How the study is run.

    Attributes:
        folder: Where prompts and finished cells go.
        models: Folder of the runs of `lab study paradigms`.
        cells: Which searches.
        jobs: Searches at a time, one thread each.
    """

    folder: Path
    models: Path
    cells: tuple[SearchCell, ...]
    jobs: int = 2

    def model(self, size: BaseSize, seed: int) -> Path:
        """The pointwise reward model of a size and seed.

        Raises:
            UsageError: It was not made yet.
        """
        return made_model(self.models, StudyRun(size, "pointwise", COUNTS["train"], seed))

    def prompts(self, seed: int) -> Path:
        """Prompts of a seed."""
        return self.folder / f"prompts-{seed}"


def search_cells(seeds: Sequence[int], sizes: Sequence[BaseSize] = SIZES) -> tuple[SearchCell, ...]:
    """Every search, those of the first seed first and of the largest verifier before the others."""
    asked = [(scale, way) for scale in TREES for way in (WAYS if scale == "whole" else FRONTIER_WAYS)]
    return tuple(
        SearchCell(size, way, seed, scale) for seed, size, (scale, way) in product(seeds, reversed(sizes), asked)
    )


def run_searches(study: SearchStudy, on_done: Callable[[int], None] | None = None) -> list[dict[str, Any]]:
    """Make every cell that is not finished; one row a cell, in their order."""
    for seed in {cell.seed for cell in study.cells}:
        if not study.prompts(seed).is_dir():
            write_prompts(study.prompts(seed), seed)
    return make_all(partial(_make, study), study.cells, study.jobs, on_done)


def settings_of(
    cell: SearchCell, generator: Generator, verifier: Verifier
) -> BestOfNSettings | PathSettings | ParticleSettings:
    """How a cell searches, so that it costs what the search over paths costs; best of N is rounded up to that."""
    seed, drawing = cell.seed, Drawing(batch_size=_BATCH)
    paths = replace(TREES[cell.scale], seed=seed)
    sigmas = drawing.sigmas(generator)
    steps, budget = len(sigmas) - 1, path_budget(paths, sigmas, verifier)
    match cell.way:
        case "single":
            return BestOfNSettings(1, seed)
        case "best_of_n":
            return BestOfNSettings(covering_candidates(budget, steps, verifier, "velocities"), seed)
        case "best_of_more":
            return BestOfNSettings(covering_candidates(budget, steps, verifier, "all"), seed)
        case "paths":
            return paths
        case "particles":
            return ParticleSettings(affordable_candidates(budget, steps, verifier, "velocities"), seed=seed)


def write_search_results(path: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write `search.json`: by size and way, figures with intervals over prompts and seeds; the frontier; every row.

    Returns:
        The summary of the whole budget.
    """
    by_scale = {scale: [row for row in rows if row["scale"] == scale] for scale in TREES}
    whole = by_scale["whole"]
    summary = _by_size_and_way(whole, ("best_of_n", "best_of_more"))
    sizes = [size for size in SIZES if size in summary]
    larger = {
        way: _gain(_of(whole, sizes[-1], way), _of(whole, sizes[0], way))
        for way in WAYS
        if len(sizes) > 1 and _of(whole, sizes[0], way) and _of(whole, sizes[-1], way)
    }
    content = {
        "study": "search",
        "command": "rewarddance lab study search",
        "versions": package_versions(),
        "summary": summary,
        "frontier": {scale: _by_size_and_way(own, ("best_of_n",)) for scale, own in by_scale.items() if own},
        "gold_over_best_of_n_at_all_budgets": {size: _gains_at_all_budgets(by_scale, size) for size in sizes},
        "largest_over_smallest_verifier": larger,
        "rows": list(rows),
    }
    write_json_atomic(path, content)
    return summary


def _by_size_and_way(rows: Sequence[dict[str, Any]], bases: Sequence[WayName]) -> dict[str, Any]:
    return {
        size: {
            way: _figures(_of(rows, size, way), {base: _of(rows, size, base) for base in bases})
            for way in WAYS
            if _of(rows, size, way)
        }
        for size in dict.fromkeys(row["size"] for row in rows)
    }


def _of(rows: Sequence[dict[str, Any]], size: str, way: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["size"], row["way"]) == (size, way)]


def _figures(rows: Sequence[dict[str, Any]], bases: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    figures: dict[str, Any] = {"seeds": [row["seed"] for row in rows], "budget": rows[0]["budget"]}
    for name in ("gold", "alignment", "proxy"):
        values = np.concatenate([row[name] for row in rows])
        figures[name] = asdict(_interval(values, name))
    for name, base in bases.items():
        gain = _gain(rows, base)
        if gain is not None:
            figures[f"gold_over_{name}"] = gain
    return figures


def _gain(rows: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Gold over that of other searches on the same prompts and noise; None where they have no seed in common."""
    gains = list(_gains_by_seed(rows, base).values())
    return asdict(_interval(np.concatenate(gains), "gain")) if gains else None


def _gains_by_seed(
    rows: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]
) -> dict[int, Float[np.ndarray, " prompts"]]:
    golds = {row["seed"]: row["gold"] for row in base}
    return {row["seed"]: np.subtract(row["gold"], golds[row["seed"]]) for row in rows if row["seed"] in golds}


def _gains_at_all_budgets(by_scale: Mapping[ScaleName, Sequence[dict[str, Any]]], size: str) -> dict[str, Any]:
    """Gold over best of N, for each prompt the mean of its gains at the budgets: one comparison with more power."""
    means: dict[str, Any] = {}
    for way in (way for way in FRONTIER_WAYS if way != "best_of_n"):
        gains: dict[int, list[Float[np.ndarray, " prompts"]]] = {}
        for rows in by_scale.values():
            for seed, own in _gains_by_seed(_of(rows, size, way), _of(rows, size, "best_of_n")).items():
                gains.setdefault(seed, []).append(own)
        if gains:
            means[way] = asdict(_interval(np.concatenate([np.mean(each, axis=0) for each in gains.values()]), "gain"))
    return means


def _interval(values: Float[np.ndarray, " prompts"], name: str) -> Interval:
    # Prompts of different seeds are different draws: each is a cluster of its own.
    return bootstrap_mean(values, np.arange(len(values)), numpy_rng(0, "search study", name))


def _make(study: SearchStudy, cell: SearchCell) -> dict[str, Any]:
    """One cell in a process of its own."""
    torch.set_num_threads(1)
    kept = study.folder / f"{cell.name}.json"
    if kept.is_file():
        return {**_kept_row(kept, cell), **asdict(cell)}
    generator = load_generator(str(lab_generator()))
    verifier = Verifier(load_reward_model(study.model(cell.size, cell.seed)))
    settings = settings_of(cell, generator, verifier)
    search = Search(generator, verifier, settings, Drawing(batch_size=_BATCH))
    prompts = [item.prompt for item in read_prompts(study.prompts(cell.seed) / HELD_OUT_NAME)]
    found = [search.run(prompt) for prompt in prompts]
    tree = asdict(TREES[cell.scale])
    row = {**asdict(cell), "tree": tree, "budget": asdict(found[0].spent), "prompts": prompts, **_golds(found)}
    study.folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(kept, row)
    return row


def _kept_row(path: Path, cell: SearchCell) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(path.read_text())
    tree = json.loads(json.dumps(asdict(TREES[cell.scale])))
    if row.get("tree", tree) != tree:  # rows of earlier versions do not say; there was one budget, the whole
        raise UsageError(f"{path} was made on another budget than the study's; give another --out, or remove it")
    return row


def _golds(found: Sequence[SearchResult]) -> dict[str, list[float]]:
    winners = [result.winner for result in found]
    judged = [
        judge_picture(winner.pixels.permute(1, 2, 0).double().numpy(), parse_prompt(result.prompt))
        for result, winner in zip(found, winners, strict=True)
        if winner is not None
    ]
    if len(judged) < len(found):
        raise UsageError("a verifier of the lab could not judge any picture of a prompt; its folder may be damaged")
    return {
        "gold": [gold.overall for gold in judged],
        "alignment": [gold.alignment for gold in judged],
        "proxy": [w.opinion.reward for w in winners if w is not None and w.opinion.reward is not None],
    }
