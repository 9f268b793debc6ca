"""Studies of alignment in the lab: which reward models are hacked and when, and who notices.

Every reward model of the paradigms study is optimised hard, by ReFL and by Flow-GRPO, from the same base generator.
Gold is measured beside it. The guard judges the recorded evaluations afterwards (it never acts here, so that every
run goes on to its end), and so does the paper's signal, reward spread, alone.

Source:
    RewardDance, arXiv:2509.08826, Tables 2 and 7, Figures 2 and 5; gold and proxy after Gao et al., arXiv:2210.10760.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from rewarddance.config.guard import GuardConfig
from rewarddance.core.files import write_json_atomic
from rewarddance.data.prompts import read_prompts
from rewarddance.evaluation.evaluation_file import package_versions
from rewarddance.generators.loading import load_generator
from rewarddance.lab.alignment import (
    GOLD_SAMPLES,
    HELD_OUT_NAME,
    TRAIN_NAME,
    WIDE_NAME,
    LabAlignment,
    MethodName,
    align_in_lab,
    draw_references,
    gold_by_step,
    require_made_as,
    write_prompts,
)
from rewarddance.lab.alignment_outcomes import outcome, outcome_summary, outcome_tables
from rewarddance.lab.base_models import BaseSize
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.lab.gold_curves import GoldTable, gold_table
from rewarddance.lab.processes import make_all
from rewarddance.lab.recorded_results import joined, recorded, seeds_of
from rewarddance.lab.reference_alignment import CANDIDATES, reference_alignment_summary
from rewarddance.lab.reward_study import StudyRun, made_model
from rewarddance.lab.seeds import seed_interval
from rewarddance.reports.json_files import read_json_lines
from rewarddance.rewards.protocol import RewardKind
from rewarddance.training.run_folder import RunFolder

WayName = Literal["refl", "refl_augmented", "flow_grpo"]


@dataclass(frozen=True, slots=True)
class Way:
    """How a reward model is optimised: see `LabAlignment` for the fields."""

    method: MethodName
    learning_rate: float
    optimizer_steps: int
    velocity_weight: float = 0.0
    shift: int = 0
    noise: float = 0.0
    batch_size: int = 8
    evaluate_every: int = 8
    held_out: str = HELD_OUT_NAME
    evaluation_prompts: int = 33
    evaluation_samples: int = 3
    gold_samples: int = GOLD_SAMPLES


WAYS: dict[WayName, Way] = {
    "refl": Way("refl", 1e-3, 160, evaluate_every=20),
    "refl_augmented": Way("refl", 5e-4, 40, velocity_weight=0.1, shift=3, noise=0.03),
    "flow_grpo": Way(
        "flow_grpo",
        1.5e-3,
        144,
        batch_size=64,
        evaluate_every=16,
        held_out=WIDE_NAME,
        evaluation_prompts=79,
        evaluation_samples=4,
        gold_samples=6,
    ),
}
"""Hard, as the paper's figures do it; carefully; and without the reward's gradient, where gold moves by hundredths and
takes more prompts and pictures to measure."""

COMPARISONS = 4000
GUARDED_STEPS, GUARDED_BATCH = 360, 16
GUARDED_RATE = 1e-3
GUARDED_CANDIDATES, GUARDED_REFERENCES = 16, 4
CHOSEN_WEIGHT, CHOSEN_STEPS = 10.0, 160
FINAL_SAMPLES = 16
FINISHED_NAME = "finished.json"

_JUDGE_SEEDS = 2
_JUDGE_SIZES: tuple[BaseSize, ...] = ("small", "micro")
_JUDGE_KINDS: tuple[RewardKind, ...] = ("pointwise", "scalar")


@dataclass(frozen=True, slots=True)
class AlignmentCell:
    """One run: which reward model is optimised, and how."""

    size: BaseSize
    kind: RewardKind
    way: WayName
    seed: int

    @property
    def name(self) -> str:
        """Folder name of the run."""
        return f"{self.size}-{self.kind}-{self.way}-{self.seed}"


@dataclass(frozen=True, slots=True)
class AlignmentStudy:
    """How the study is run.

    Attributes:
        folder: Where runs go; finished ones there are not made again.
        models: Folder of the runs of `lab study paradigms`.
        cells: Which runs.
        drawing: Seed of prompts and reference images.
        judge_seeds: Seeds of the reward models among which held-out judges are chosen: the first two but the run's own.
        jobs: Runs at a time, one thread each.
    """

    folder: Path
    models: Path
    cells: tuple[AlignmentCell, ...]
    drawing: int = 0
    judge_seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 2

    @property
    def prompts(self) -> Path:
        """Prompts of every run."""
        return self.folder / f"prompts-{self.drawing}"

    @property
    def references(self) -> Path:
        """Reference images of every run: the same, so that pairwise rewards can be compared."""
        return self.folder / f"references-{self.drawing}"

    def model(self, size: BaseSize, kind: RewardKind, seed: int) -> Path:
        """A reward model of the paradigms study.

        Raises:
            UsageError: It was not made yet.
        """
        return made_model(self.models, StudyRun(size, kind, COMPARISONS, seed))

    def judges(self, cell: AlignmentCell) -> tuple[Path, ...]:
        """Held-out judges of a run: of two sizes and two paradigms, each of two other sets of comparisons."""
        others = [seed for seed in self.judge_seeds if seed != cell.seed][:_JUDGE_SEEDS]
        return tuple(self.model(size, kind, other) for other, size, kind in product(others, _JUDGE_SIZES, _JUDGE_KINDS))


def alignment_cells(
    seeds: Sequence[int],
    sizes: Sequence[BaseSize] = ("nano", "micro", "small"),
    kinds: Sequence[RewardKind] = ("pairwise", "pointwise", "scalar"),
    ways: Sequence[WayName] = tuple(WAYS),
) -> tuple[AlignmentCell, ...]:
    """Every run, those of the first seed first, so that a study that is cut short has whole columns."""
    return tuple(AlignmentCell(size, kind, way, seed) for seed, way, size, kind in product(seeds, ways, sizes, kinds))


def evaluated_steps(way: WayName) -> list[int]:
    """Optimizer steps at which runs of this way are evaluated, the base's 0 first."""
    return list(range(0, WAYS[way].optimizer_steps + 1, WAYS[way].evaluate_every))


def run_alignments(study: AlignmentStudy, on_done: Callable[[int], None] | None = None) -> list[Path]:
    """Make every run that is not finished; returns their folders in the order of the cells."""
    _prepare(study)
    return make_all(partial(_make, study), study.cells, study.jobs, on_done)


def _prepare(study: AlignmentStudy) -> None:
    """Prompts and reference images; the best of four by the first seed's largest pairwise model."""
    if not (study.prompts / WIDE_NAME).is_file():
        write_prompts(study.prompts, study.drawing)
    judge = study.model("small", "pairwise", study.judge_seeds[0])
    draw_references(study.references, study.prompts, judge, names=(TRAIN_NAME, WIDE_NAME), seed=study.drawing)


def _make(study: AlignmentStudy, cell: AlignmentCell) -> Path:
    """One run in a process of its own; what it leaves is its curves and pictures, without weights."""
    torch.set_num_threads(1)
    folder = study.folder / f"drawing-{study.drawing}" / cell.name
    finished = folder / FINISHED_NAME
    run = LabAlignment(
        folder=folder,
        prompts=study.prompts,
        references=study.references,
        reward=study.model(cell.size, cell.kind, cell.seed),
        judges=study.judges(cell),
        seed=cell.seed,
        **asdict(WAYS[cell.way]),
    )
    if finished.is_file():
        require_made_as(run)
    else:
        result = align_in_lab(run)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(folder / "generator", ignore_errors=True)
        row = {**asdict(cell), "ending": result.ending, "drawing": study.drawing, "gold_samples": run.gold_samples}
        write_json_atomic(finished, row)
    return folder


def run_guarded(study: AlignmentStudy, seeds: Sequence[int], on_done: Callable[[int], None] | None = None) -> list[Any]:
    """The largest pairwise reward model with the guard, once for each seed; one row a run.

    ReFL, and for the first part of the run its pre-training term on the reference images: the best four of sixteen of
    the base generator, by the reward model itself.
    """
    _prepare(study)
    return make_all(partial(_make_guarded, study), seeds, study.jobs, on_done)


def guarded_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean gain of gold over seeds with its 95 % t interval, and what is left of the diversity.

    A single seed has no interval: its ends are None.
    """
    gains = [row["gold_after"] - row["gold_before"] for row in rows]
    gain = seed_interval(gains)
    return {
        "gold_gain": gain["mean"],
        "gold_gain_low": gain["low"],
        "gold_gain_high": gain["high"],
        "diversity_ratio": sum(row["diversity_after"] / row["diversity_before"] for row in rows) / len(rows),
        "seeds": [row["seed"] for row in rows],
    }


def write_alignment_results(
    path: Path,
    guarded: Sequence[dict[str, Any]],
    runs: Sequence[Path],
    seeds: Sequence[int],
    models: Path,
    references: Sequence[dict[str, Any]] = (),
) -> str:
    """Write `alignment.json`: summary of the guarded runs, their rows, and what became of every other run.

    What the file holds already of the same study, and is not made now, stays.

    Args:
        path: The file.
        guarded: Rows of `run_guarded`; none keeps those of the file.
        runs: Folders of the other runs that are finished.
        seeds: Of the whole study; the file says whether it is complete.
        models: Folder of the runs of `lab study paradigms`.
        references: Rows of `run_reference_alignments`; none keeps those of the file.

    Returns:
        The tables of the other runs, as Markdown.
    """
    earlier = recorded(path)
    made = [
        {"run": folder.name, **json.loads((folder / FINISHED_NAME).read_text()), "evaluations": _curves(folder)}
        for folder in runs
    ]
    kept = [row for row in earlier.get("rows", ()) if _is_as_now(row)]
    every = seeds_of([*kept, *earlier.get("guarded", ()), *guarded, *references], seeds)
    cells = [cell.name for cell in alignment_cells(every)]
    curves = joined(kept, made, cells, lambda row: row["run"])
    outcomes = [outcome(row, models) for row in curves]
    guarded = joined(earlier.get("guarded", ()), guarded, every, lambda row: row["seed"])
    kinds = [(kind, seed) for seed in every for kind in CANDIDATES]
    known = earlier.get("references", {}).get("rows", ())
    references = joined(known, references, kinds, lambda row: (row["kind"], row["seed"]))
    is_complete = (len(curves), len(guarded), len(references)) == (len(cells), len(every), len(kinds))
    content = {
        "study": "alignment",
        "command": "rewarddance lab study alignment",
        "versions": package_versions(),
        "is_complete": is_complete,
        "made_earlier": sorted({row["run"] for row in curves} - {row["run"] for row in made}),
        "summary": guarded_summary(guarded) if guarded else None,
        "guarded": guarded,
        "references": {"summary": reference_alignment_summary(references), "rows": references},
        "outcomes": outcome_summary(outcomes),
        "rows": curves,
    }
    write_json_atomic(path, content)
    return outcome_tables(outcomes)


def _is_as_now(row: dict[str, Any]) -> bool:
    """Whether a recorded run was looked at when the study looks."""
    return [one["optimizer_step"] for one in row["evaluations"]] == evaluated_steps(row["way"])


def _curves(folder: Path) -> list[dict[str, Any]]:
    names = ("optimizer_step", "proxy", "held_out", "spread", "saturation", "diversity", "kl", "extra")
    return [{name: row[name] for name in names} for row in read_json_lines(RunFolder(folder).evaluations)]


def _make_guarded(study: AlignmentStudy, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    folder = study.folder / f"guarded-{seed}"
    kept = folder / "row.json"
    cell = AlignmentCell("small", "pairwise", "refl", seed)
    reward, references = study.model(cell.size, cell.kind, seed), study.folder / f"guarded-references-{seed}"
    run = LabAlignment(
        folder=folder,
        prompts=study.prompts,
        references=references,
        reward=reward,
        judges=study.judges(cell),
        optimizer_steps=GUARDED_STEPS,
        learning_rate=GUARDED_RATE,
        decay="cosine",
        velocity_weight=0.0,
        chosen_weight=CHOSEN_WEIGHT,
        chosen_steps=CHOSEN_STEPS,
        references_used=GUARDED_REFERENCES,
        evaluate_every=GUARDED_STEPS // 12,
        batch_size=GUARDED_BATCH,
        guard=GuardConfig(),
        seed=seed,
    )
    if kept.is_file():
        require_made_as(run)
        row: dict[str, Any] = json.loads(kept.read_text())
        return row
    draw_references(references, study.prompts, reward, candidates=GUARDED_CANDIDATES, top=GUARDED_REFERENCES, seed=seed)
    result = align_in_lab(run)
    base, tuned = (load_generator(str(path)) for path in (lab_generator(), folder / "generator"))
    prompts = [item.prompt for item in read_prompts(study.prompts / HELD_OUT_NAME)]
    before, after = (gold_table(generator, prompts, FINAL_SAMPLES, seed=1) for generator in (base, tuned))
    row = {
        "seed": seed,
        "ending": result.ending,
        "optimizer_steps": result.optimizer_steps,
        "kept_step": result.kept_step,
        **_figures("before", before),
        **_figures("after", after),
        "gold_by_step": gold_by_step(folder),
    }
    write_json_atomic(kept, row)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return row


def _figures(moment: str, table: GoldTable) -> dict[str, float]:
    return {
        f"gold_{moment}": float(table.overall.mean()),
        f"alignment_{moment}": float(table.alignment.mean()),
        f"quality_{moment}": float(table.quality.mean()),
        f"diversity_{moment}": table.diversity,
    }
