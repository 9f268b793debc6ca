"""The paradigm study: three sizes, three paradigms, three seeds, measured against gold.

Source:
    RewardDance, arXiv:2509.08826, Table 7 (paradigms) and Table 2 (accuracy by size).
    Differs: accuracy against the true preference with confidence intervals and seeds, and position bias, none of
    which the paper reports; a drawn world and small models.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from rewarddance.core.files import write_json_atomic
from rewarddance.evaluation.evaluation_file import package_versions
from rewarddance.evaluation.preference_report import GroupReport
from rewarddance.lab.base_models import SHAPES, BaseSize, lab_base
from rewarddance.lab.comparisons import LabData, Split, draw_comparisons, open_drawn
from rewarddance.lab.learning import MIN_GOLD_DIFFERENCE, SPLIT_NAMES, TEST_SPLITS, LabRun, learn, measure
from rewarddance.rewards.protocol import RewardKind

KINDS: tuple[RewardKind, ...] = ("pairwise", "pointwise", "scalar")
COUNTS: dict[Split, int] = {"train": 4000, "validation": 400, "test_in": 1000, "test_out": 1000}


@dataclass(frozen=True, slots=True)
class StudySettings:
    """Which runs the study makes.

    Attributes:
        folder: Where runs and data go; finished runs there are not made again.
        sizes: Base models, smallest first.
        kinds: Paradigms.
        seeds: Each seed draws its own comparisons.
        counts: Comparisons of each split.
        jobs: Runs at a time, one thread each.
    """

    folder: Path
    sizes: tuple[BaseSize, ...] = tuple(SHAPES)
    kinds: tuple[RewardKind, ...] = KINDS
    seeds: tuple[int, ...] = (0, 1, 2)
    counts: tuple[tuple[Split, int], ...] = tuple(COUNTS.items())
    jobs: int = 2

    @property
    def total(self) -> int:
        """Number of runs."""
        return len(self.sizes) * len(self.kinds) * len(self.seeds)


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One cell and seed of the study."""

    size: BaseSize
    kind: RewardKind
    seed: int

    @property
    def name(self) -> str:
        """Folder name of the run."""
        return f"{self.size}-{self.kind}-{self.seed}"


def run_study(settings: StudySettings, on_done: Callable[[StudyRun, dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Make every run that is not finished, and return one row a run, in the order of the settings."""
    for seed in settings.seeds:
        _data(settings, seed)
    runs = [StudyRun(*cell) for cell in product(settings.sizes, settings.kinds, settings.seeds)]
    rows: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(settings.jobs, mp_context=get_context("spawn")) as pool:
        for run, row in zip(runs, pool.map(_make, [settings] * len(runs), runs), strict=True):
            rows[run.name] = row
            on_done(run, row)
    return [rows[run.name] for run in runs]


def _make(settings: StudySettings, run: StudyRun) -> dict[str, Any]:
    """One run in a process of its own; its row is kept as `row.json`."""
    torch.set_num_threads(1)
    folder = settings.folder / run.name
    kept = folder / "row.json"
    if kept.is_file():
        row: dict[str, Any] = json.loads(kept.read_text())
        return row
    data = _data(settings, run.seed)
    model = learn(LabRun(lab_base(run.size), run.size, run.kind, run.seed, folder), data)
    report = measure(model, data, folder, run.name)
    row = {**asdict(run), **{split: figures(report.facets["split"][SPLIT_NAMES[split]]) for split in TEST_SPLITS}}
    write_json_atomic(kept, row)
    return row


def figures(group: GroupReport) -> dict[str, Any]:
    """What the study keeps of one split: accuracy against gold where it differs clearly, and order dependence."""
    clear = next(part for part in group.gold if part.min_difference == MIN_GOLD_DIFFERENCE)
    orders, calibration = group.orders, group.calibration
    return {
        "n": clear.n,
        "accuracy": asdict(clear.accuracy),
        "accuracy_one_order": clear.accuracy_mean_orders and asdict(clear.accuracy_mean_orders),
        "share_inconsistent_one_order": clear.share_inconsistent and asdict(clear.share_inconsistent),
        "share_inconsistent_two_orders": orders and orders.share_inconsistent_two_orders,
        "mean_order_gap": orders and orders.mean_order_gap,
        "ece": calibration and calibration.ece,
        "n_failed": group.n_failed,
    }


def _data(settings: StudySettings, seed: int) -> LabData:
    folder = settings.folder / f"data-{seed}"
    return open_drawn(folder) or draw_comparisons(folder, dict(settings.counts), seed)


def write_results(path: Path, settings: StudySettings, rows: Sequence[dict[str, Any]]) -> None:
    """Write `docs/results/paradigms.json`: rows of config, seed, figure and interval; the command; the versions."""
    write_json_atomic(
        path,
        {
            "study": "paradigms",
            "command": "rewarddance lab study paradigms",
            "versions": package_versions(),
            "comparisons": dict(settings.counts),
            "min_gold_difference": MIN_GOLD_DIFFERENCE,
            "rows": list(rows),
        },
    )


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean over seeds of accuracy in and out of domain, with a t interval over seeds, one line a cell."""
    lines = [
        "| size | paradigm | seeds | in domain | out of domain | one order | inconsistent, one order | two orders |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size, kind in dict.fromkeys((row["size"], row["kind"]) for row in rows):
        cell = [row for row in rows if (row["size"], row["kind"]) == (size, kind)]
        one_order = [row["test_in"]["accuracy_one_order"]["estimate"] for row in cell]
        inconsistent = [row["test_in"]["share_inconsistent_one_order"]["estimate"] for row in cell]
        two_orders = [row["test_in"]["share_inconsistent_two_orders"] for row in cell]
        columns = [
            size,
            kind,
            str(len(cell)),
            *(over_seeds([row[split]["accuracy"]["estimate"] for row in cell]) for split in TEST_SPLITS),
            *(over_seeds(values) for values in (one_order, inconsistent, two_orders)),
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def over_seeds(values: Sequence[float]) -> str:
    """Mean with its 95 % t interval over seeds, such as `0.912 [0.900, 0.924]`."""
    from scipy import stats

    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"
