"""Better reference images, better generator? The same ReFL run against reference images of different worth.

Each run tunes the base generator towards the largest pairwise reward model of its seed, against two reference images a
prompt that this model chose itself; only how they were chosen differs. Gold is measured on held-out prompts, from the
same noise in every run, so that runs are compared prompt by prompt.

Source:
    RewardDance, arXiv:2509.08826, Table 8.
    Differs: gold instead of human scores; one of the two references, drawn at random, is in a question.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rewarddance.core.files import write_json_atomic
from rewarddance.core.seeding import numpy_rng
from rewarddance.data.prompts import read_prompts
from rewarddance.generators.loading import load_generator
from rewarddance.lab.alignment import (
    HELD_OUT_NAME,
    LabAlignment,
    align_in_lab,
    draw_references,
    require_made_as,
    write_prompts,
)
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.lab.gold_curves import gold_table
from rewarddance.lab.processes import make_all
from rewarddance.lab.reward_study import COUNTS, StudyRun, made_model
from rewarddance.lab.seeds import seed_interval
from rewarddance.metrics.bootstrap import bootstrap_mean
from rewarddance.search.references import MOST_CANDIDATES

KindName = Literal["best_of_2", "best_of_6", "best_of_16", "worst_of_16"]

CANDIDATES: dict[KindName, int] = {"best_of_2": 2, "best_of_6": 6, "best_of_16": 16, "worst_of_16": 16}
"""Pictures of a prompt among which two references are chosen."""

BASE_KINDS: tuple[KindName, ...] = ("best_of_2", "worst_of_16")
USED = 2
OPTIMIZER_STEPS, LEARNING_RATE = 80, 5e-4
GOLD_SAMPLES = 16


@dataclass(frozen=True, slots=True)
class ReferenceRun:
    """One run: which reference images, and which seed of reward model, noise and adapters."""

    kind: KindName
    seed: int

    @property
    def name(self) -> str:
        """Folder name of the run."""
        return f"references-{self.kind}-{self.seed}"


@dataclass(frozen=True, slots=True)
class ReferenceAlignment:
    """How the runs are made.

    Attributes:
        folder: Where they go; finished ones there are not made again.
        models: Folder of the runs of `lab study paradigms`.
        seeds: Of reward models, noise and adapters.
        jobs: Runs at a time, one thread each.
    """

    folder: Path
    models: Path
    seeds: tuple[int, ...]
    jobs: int = 2

    @property
    def prompts(self) -> Path:
        """Prompts of every run, those of the alignment study."""
        return self.folder / "prompts-0"

    @property
    def runs(self) -> tuple[ReferenceRun, ...]:
        """Every run, those of the first seed first."""
        return tuple(ReferenceRun(kind, seed) for seed, kind in product(self.seeds, CANDIDATES))

    def model(self, seed: int) -> Path:
        """The largest pairwise reward model of a seed.

        Raises:
            UsageError: It was not made yet.
        """
        return made_model(self.models, StudyRun("small", "pairwise", COUNTS["train"], seed))

    def references(self, candidates: int, seed: int) -> Path:
        """Folder of the reference images that a seed's model chose among so many."""
        return self.folder / f"references-of-{candidates}-{seed}"


def run_reference_alignments(
    study: ReferenceAlignment, on_done: Callable[[int], None] | None = None
) -> list[dict[str, Any]]:
    """Make every run that is not finished; one row a run, in their order."""
    if not study.prompts.is_dir():
        write_prompts(study.prompts, seed=0)
    make_all(partial(_choose, study), tuple(product(sorted(set(CANDIDATES.values())), study.seeds)), study.jobs)
    return make_all(partial(_tune, study), study.runs, study.jobs, on_done)


def reference_alignment_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By kind: gold before and after, and the gains over `BASE_KINDS`, paired by seed and prompt.

    Intervals of means are t intervals over seeds, those of the gains bootstrap intervals over prompts.
    """
    golds = {kind: {row["seed"]: row["gold"] for row in rows if row["kind"] == kind} for kind in CANDIDATES}
    summary: dict[str, Any] = {}
    for kind, by_seed in golds.items():
        if not by_seed:
            continue
        before = [row["gold_before"] for row in rows if row["kind"] == kind]
        gains = {base: _gains(by_seed, golds[base]) for base in BASE_KINDS}
        summary[kind] = {
            "gold": seed_interval([float(np.mean(values)) for values in by_seed.values()]),
            "gold_before": sum(before) / len(before),
            **{f"over_{base}": _interval(found, kind) if found else None for base, found in gains.items()},
            "seeds": list(by_seed),
        }
    return summary


def _gains(golds: Mapping[int, Sequence[float]], base: Mapping[int, Sequence[float]]) -> list[np.ndarray]:
    return [np.subtract(golds[seed], base[seed]) for seed in golds if seed in base]


def _interval(gains: Sequence[np.ndarray], kind: str) -> dict[str, Any]:
    # All seeds have the same prompts: a prompt is one cluster.
    prompts = np.tile(np.arange(len(gains[0])), len(gains))
    rng = numpy_rng(0, "reference alignment", kind)
    return asdict(bootstrap_mean(np.concatenate(gains), prompts, rng))


def _choose(study: ReferenceAlignment, asked: tuple[int, int]) -> Path:
    torch.set_num_threads(1)
    candidates, seed = asked
    folder, bottom = study.references(candidates, seed), USED if candidates == MOST_CANDIDATES else 0
    draw_references(folder, study.prompts, study.model(seed), candidates, top=USED, bottom=bottom, seed=seed)
    return folder


def _tune(study: ReferenceAlignment, run: ReferenceRun) -> dict[str, Any]:
    """One run in a process of its own; its row is kept as `row.json`, its weights are not."""
    torch.set_num_threads(1)
    folder = study.folder / run.name
    kept = folder / "row.json"
    alignment = LabAlignment(
        folder=folder,
        prompts=study.prompts,
        references=study.references(CANDIDATES[run.kind], run.seed),
        reward=study.model(run.seed),
        judges=(),
        optimizer_steps=OPTIMIZER_STEPS,
        learning_rate=LEARNING_RATE,
        references_used=USED,
        references_kept="bottom" if run.kind == "worst_of_16" else "top",
        evaluate_every=OPTIMIZER_STEPS // 2,
        seed=run.seed,
    )
    if kept.is_file():
        require_made_as(alignment)
        row: dict[str, Any] = json.loads(kept.read_text())
        return row
    align_in_lab(alignment)
    prompts = [item.prompt for item in read_prompts(study.prompts / HELD_OUT_NAME)]
    base, tuned = (load_generator(str(path)) for path in (lab_generator(), folder / "generator"))
    before, after = (gold_table(generator, prompts, GOLD_SAMPLES, seed=1) for generator in (base, tuned))
    row = {
        **asdict(run),
        "gold_before": float(before.overall.mean()),
        "gold": [float(value) for value in after.overall.mean(axis=1)],
        "alignment": float(after.alignment.mean()),
        "quality": float(after.quality.mean()),
        "diversity_ratio": after.diversity / before.diversity,
    }
    write_json_atomic(kept, row)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    shutil.rmtree(folder / "generator", ignore_errors=True)
    return row
