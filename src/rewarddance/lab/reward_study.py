"""Studies of reward models in the lab, measured against gold: paradigms and sizes, and learning curves.

Source:
    RewardDance, arXiv:2509.08826, Table 7 (paradigms) and Table 2 (accuracy by size).
    Differs: accuracy against the true preference with confidence intervals and seeds, and position bias, none of
    which the paper reports; a drawn world and small models.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from rewarddance.core.errors import UsageError
from rewarddance.core.files import write_json_atomic
from rewarddance.evaluation.evaluation_file import package_versions
from rewarddance.evaluation.preference_report import GroupReport
from rewarddance.lab.base_models import SHAPES, BaseSize, lab_base
from rewarddance.lab.comparisons import LabData, Split, draw_comparisons, open_drawn
from rewarddance.lab.learning import MIN_GOLD_DIFFERENCE, SPLIT_NAMES, TEST_SPLITS, LabRun, clear_gold, learn, measure
from rewarddance.lab.processes import make_all
from rewarddance.lab.seeds import mean_and_half_width
from rewarddance.rewards.folder import RECORD_NAME
from rewarddance.rewards.protocol import RewardKind

StudyName = Literal["paradigms", "learning_curve"]

COUNTS: dict[Split, int] = {"train": 4000, "validation": 400, "test_in": 1000, "test_out": 1000}
SIZES: tuple[BaseSize, ...] = tuple(SHAPES)


@dataclass(frozen=True, slots=True)
class Study:
    """Which cells a study has; every cell is run with every seed.

    Attributes:
        sizes: Base models, smallest first.
        kinds: Paradigms.
        comparisons: Numbers of comparisons to learn from.
    """

    sizes: tuple[BaseSize, ...] = SIZES
    kinds: tuple[RewardKind, ...] = ("pairwise", "pointwise", "scalar")
    comparisons: tuple[int, ...] = (COUNTS["train"],)


STUDIES: Mapping[StudyName, Study] = {
    "paradigms": Study(),
    "learning_curve": Study(kinds=("pairwise",), comparisons=(500, 1000, 2000, 4000)),
}


@dataclass(frozen=True, slots=True)
class StudySettings:
    """How a study is run.

    Attributes:
        folder: Where runs and data go; finished runs there, of other studies too, are not made again.
        seeds: Each seed draws its own comparisons.
        counts: Comparisons of each split.
        jobs: Runs at a time, one thread each.
    """

    folder: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    counts: tuple[tuple[Split, int], ...] = tuple(COUNTS.items())
    jobs: int = 2


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One cell of a study with one seed."""

    size: BaseSize
    kind: RewardKind
    comparisons: int
    seed: int

    @property
    def name(self) -> str:
        """Folder name of the run."""
        return f"{self.size}-{self.kind}-{self.comparisons}-{self.seed}"


def runs_of(study: Study, settings: StudySettings) -> list[StudyRun]:
    """Every run, those of the first seed first, so that a study that is cut short has whole columns."""
    cells = product(settings.seeds, study.sizes, study.kinds, study.comparisons)
    return [StudyRun(size, kind, comparisons, seed) for seed, size, kind, comparisons in cells]


def run_study(
    study: Study, settings: StudySettings, on_done: Callable[[int], None] | None = None
) -> list[dict[str, Any]]:
    """Make every run that is not finished; one row a run, in the order of `runs_of`.

    Args:
        study: Its cells.
        settings: How it is run.
        on_done: Called with the number of finished runs.
    """
    for seed in settings.seeds:
        study_data(settings, seed)
    return make_all(partial(make_run, settings), runs_of(study, settings), settings.jobs, on_done)


def make_run(settings: StudySettings, run: StudyRun) -> dict[str, Any]:
    """One run in a process of its own; its row is kept as `row.json`."""
    torch.set_num_threads(1)
    folder = settings.folder / run.name
    kept = folder / "row.json"
    if kept.is_file():
        row: dict[str, Any] = json.loads(kept.read_text())
        return row
    data = study_data(settings, run.seed)
    lab_run = LabRun(lab_base(run.size), run.size, run.kind, run.seed, folder, max_comparisons=run.comparisons)
    report = measure(learn(lab_run, data), data, folder, run.name)
    row = {**asdict(run), **{split: figures(report.facets["split"][SPLIT_NAMES[split]]) for split in TEST_SPLITS}}
    write_json_atomic(kept, row)
    return row


def made_model(runs: Path, run: StudyRun) -> Path:
    """The reward model of a finished run, for the studies that use it.

    Raises:
        UsageError: It was not made yet.
    """
    folder = runs / run.name / "model"
    if not (folder / RECORD_NAME).is_file():
        raise UsageError(f"{folder} is missing; make it with `rewarddance lab study paradigms --out {runs}`")
    return folder


def study_data(settings: StudySettings, seed: int) -> LabData:
    """The comparisons of a seed, drawn if they are not there yet."""
    folder = settings.folder / f"data-{seed}"
    return open_drawn(folder) or draw_comparisons(folder, dict(settings.counts), seed)


def figures(group: GroupReport) -> dict[str, Any]:
    """What a study keeps of one split: accuracy against gold where it differs clearly, and order dependence."""
    clear = clear_gold(group)
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


def write_results(path: Path, name: StudyName, settings: StudySettings, rows: Sequence[dict[str, Any]]) -> None:
    """Write `docs/results/NAME.json`: rows of config, seed, figure and interval; the command; the versions."""
    content = {
        "study": name,
        "command": f"rewarddance lab study {name}",
        "versions": package_versions(),
        "split_sizes": dict(settings.counts),
        "min_gold_difference": MIN_GOLD_DIFFERENCE,
        "rows": list(rows),
    }
    write_json_atomic(path, content)


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over seeds with t intervals, one line a cell."""
    head = (
        "size",
        "paradigm",
        "comparisons",
        "seeds",
        "in domain",
        "out of domain",
        "one order, in domain",
        "depends on order",
        "with two orders",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in _table_rows(rows))])


def over_seeds(values: Sequence[float]) -> str:
    """Mean with its 95 % t interval over seeds, such as `0.912 [0.900, 0.924]`."""
    mean, half = mean_and_half_width(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def _table_rows(rows: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    names = ("size", "kind", "comparisons")
    for cell in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        same = [row for row in rows if tuple(row[name] for name in names) == cell]
        accuracy = [over_seeds([row[split]["accuracy"]["estimate"] for row in same]) for split in TEST_SPLITS]
        orders = [
            over_seeds([row["test_in"][name]["estimate"] for row in same])
            for name in ("accuracy_one_order", "share_inconsistent_one_order")
        ]
        two_orders = over_seeds([row["test_in"]["share_inconsistent_two_orders"] for row in same])
        yield [*map(str, cell), str(len(same)), *accuracy, *orders, two_orders]
