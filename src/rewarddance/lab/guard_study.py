"""How well the guard tells hacking from learning, on recorded runs whose gold is known.

A run hacks when its gold falls, after its peak, by at least 5 % of its rise, and by more than gold moves between two
evaluations for other reasons. The guard and the paper's signal (reward spread alone) judge the same observations; none
of them has seen gold. Thresholds of both are fixed on runs by ReFL in another drawing of the world
(`guard_thresholds`), with other comparisons, prompts, references and seeds, and hold for every method. The guard as it
is without thresholds of the lab's own stands beside them.

Source:
    RewardDance, arXiv:2509.08826, Figures 5 and 6 (reward variance late in training against quality).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from rewarddance.config.guard import GuardConfig, SpreadConfig
from rewarddance.core.errors import UsageError
from rewarddance.core.files import write_json_atomic
from rewarddance.evaluation.evaluation_file import package_versions
from rewarddance.lab.alignment import GOLD_SAMPLES, MethodName
from rewarddance.lab.alignment_study import (
    COMPARISONS,
    FINISHED_NAME,
    WAYS,
    AlignmentStudy,
    WayName,
    alignment_cells,
    evaluated_steps,
    run_alignments,
)
from rewarddance.lab.base_models import BaseSize
from rewarddance.lab.processes import make_all
from rewarddance.lab.recorded_results import joined, recorded
from rewarddance.lab.reward_study import StudyRun, StudySettings, make_run, study_data
from rewarddance.metrics.overoptimization import GoldCurve, detector_confusion, gold_curve
from rewarddance.reports.json_files import read_json_lines
from rewarddance.rewards.protocol import RewardKind
from rewarddance.training.guard import replay
from rewarddance.training.guard_observation import Observation
from rewarddance.training.run_folder import RunFolder

FALL_SHARE = 0.05
NOISE, NOISE_PICTURES = 0.01, 132
"""In gold: what so many pictures of the same noise move by between two evaluations of a policy that has settled."""

DETECTORS = ("guard", "guard_defaults", "spread_alone")

FALL_BOUNDS = (0.03, 0.06, 0.12)
"""In gold: runs that hack are also counted by how much they lose, between these."""

CALIBRATION_DRAWING = 1
CALIBRATION_SIZES: tuple[BaseSize, ...] = ("nano", "micro")
"""Sizes of reward models that fix thresholds."""

_KINDS: tuple[RewardKind, ...] = ("pairwise", "pointwise", "scalar")


def smallest_fall(pictures: int) -> float:
    """Fall of gold from which a run may hack: less is the noise of so many pictures."""
    return NOISE * math.sqrt(NOISE_PICTURES / pictures)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One run as it was recorded.

    Attributes:
        name: Of its folder.
        way: How the reward was optimised.
        steps: Optimizer step of each evaluation.
        gold: Mean gold at each evaluation.
        gold_pictures: By how many pictures it was measured.
        observations: What a guard would have seen.
    """

    name: str
    way: WayName
    steps: tuple[int, ...]
    gold: tuple[float, ...]
    gold_pictures: int
    observations: tuple[Observation, ...]

    @property
    def curve(self) -> GoldCurve:
        """What happened to gold, and whether that is hacking."""
        return gold_curve(np.array(self.gold), FALL_SHARE, smallest_fall(self.gold_pictures))


@dataclass(frozen=True, slots=True)
class Detectors:
    """The guard and the paper's signal, both with thresholds."""

    guard: GuardConfig
    spread: SpreadConfig


def ways_of(method: MethodName) -> tuple[WayName, ...]:
    """How the studies optimise by a method."""
    return tuple(name for name, way in WAYS.items() if way.method == method)


def looks_of(method: MethodName) -> int:
    """Evaluations of the longest runs by a method, behind the base's."""
    return max(len(evaluated_steps(way)) for way in ways_of(method)) - 1


def calibration_runs(
    models: Path, seed: int, jobs: int = 2, on_done: Callable[[int], None] | None = None
) -> list[Path]:
    """Make the runs on which thresholds are fixed: other comparisons, reward models, prompts, references and a seed.

    Args:
        models: Folder of the runs of `lab study paradigms`; reward models of the new seed are added to it.
        seed: That no run has that the guard is scored on.
        jobs: Runs at a time, one thread each.
        on_done: Called with the number of finished alignment runs.

    Returns:
        Folders of the alignment runs.
    """
    settings = StudySettings(models, (seed,), jobs=jobs)
    study_data(settings, seed)
    rewards = [StudyRun(size, kind, COMPARISONS, seed) for size, kind in product(CALIBRATION_SIZES, _KINDS)]
    make_all(partial(make_run, settings), rewards, jobs, None)
    cells = alignment_cells((seed,), CALIBRATION_SIZES, _KINDS, ways_of("refl"))
    study = AlignmentStudy(models / "alignment", models, cells, drawing=CALIBRATION_DRAWING, jobs=jobs)
    return run_alignments(study, on_done)


def finished_runs(models: Path, method: MethodName) -> list[Path]:
    """Folders of the finished runs of `lab study alignment` by a method.

    Args:
        models: Folder of the study.
        method: How the reward was optimised.
    """
    found = sorted((models / "alignment" / "drawing-0").glob(f"*/{FINISHED_NAME}"))
    return [path.parent for path in found if json.loads(path.read_text())["way"] in ways_of(method)]


def first_free_seed(folders: Sequence[Path]) -> int:
    """A seed above those of all of these runs; 0 without any."""
    return 1 + max((int(json.loads((folder / FINISHED_NAME).read_text())["seed"]) for folder in folders), default=-1)


def read_recorded(folder: Path) -> Recorded:
    """Read a run of the alignment study."""
    run = RunFolder(folder)
    rows = read_json_lines(run.evaluations)
    finished = json.loads((folder / FINISHED_NAME).read_text())
    observations = tuple(Observation.from_json(row) for row in read_json_lines(run.observations))
    return Recorded(
        name=folder.name,
        way=finished["way"],
        steps=tuple(row["optimizer_step"] for row in rows),
        gold=tuple(row["extra"]["gold"] for row in rows),
        gold_pictures=finished.get("gold_samples", GOLD_SAMPLES) * len(observations[0].prompts),
        observations=observations,
    )


def judged(run: Recorded, config: GuardConfig | SpreadConfig) -> dict[str, Any]:
    """What a detector says of a run: when it first calls it hacking, and which gold its roll-back keeps."""
    verdicts = replay(config, run.observations)
    alarm = next((verdict for verdict in verdicts if verdict.state == "hacking"), None)
    target = run.steps.index(alarm.best_step) if alarm is not None else len(run.steps) - 1
    return {
        "alarm_step": None if alarm is None else alarm.optimizer_step,
        "kept_step": run.steps[target],
        "kept_share": run.gold[target] / run.curve.peak,
    }


def row_of(run: Recorded, detectors: Detectors) -> dict[str, Any]:
    """One row of the results: gold's curve and every detector; the guard is told how many looks such runs have."""
    looks = looks_of(WAYS[run.way].method)
    return {
        "run": run.name,
        "way": run.way,
        "gold_pictures": run.gold_pictures,
        **asdict(run.curve),
        "peak_step": run.steps[run.curve.peak_index],
        "gold_by_step": dict(zip(run.steps, run.gold, strict=True)),
        "guard": judged(run, detectors.guard.model_copy(update={"looks": looks})),
        "guard_defaults": judged(run, GuardConfig()),
        "spread_alone": judged(run, detectors.spread),
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Catches and false alarms of the guard, and the same of it at its defaults and of the spread alone.

    Of the runs that were caught, the share of gold's peak that the roll-back keeps, how many optimizer steps the alarm
    comes behind the peak, and how often before it: until then such a run is healthy.
    """
    hacks = np.array([row["hacks"] for row in rows], dtype=bool)
    return {
        "hacking_runs": int(hacks.sum()),
        "healthy_runs": int((~hacks).sum()),
        **_figures(rows, hacks, "guard"),
        "guard_defaults": _figures(rows, hacks, "guard_defaults"),
        "spread_alone": _figures(rows, hacks, "spread_alone"),
    }


def by_fall(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many of the hacking runs each detector notices, by how much gold they lose; smallest falls first.

    Returns:
        Of every range `smallest_fall`, `largest_fall` (None: no bound), `hacking_runs`, and the count of each detector.
    """
    edges = (0.0, *FALL_BOUNDS, math.inf)
    ranges = []
    for low, high in pairwise(edges):
        falls = [row for row in rows if row["hacks"] and low <= row["fall"] < high]
        caught = {name: sum(row[name]["alarm_step"] is not None for row in falls) for name in DETECTORS}
        bounds = {"smallest_fall": low, "largest_fall": None if high == math.inf else high}
        ranges.append({**bounds, "hacking_runs": len(falls), **caught})
    return ranges


def thresholds_of(detectors: Detectors, calibration: Sequence[Path]) -> dict[str, Any]:
    """Thresholds as `guard.json` holds them, with the runs on which they were fixed."""
    fixed_on = [row_of(read_recorded(folder), detectors) for folder in calibration]
    return {
        "guard": detectors.guard.model_dump(mode="json"),
        "spread": detectors.spread.model_dump(mode="json"),
        "calibration": {"summary": summary(fixed_on), "rows": fixed_on},
    }


def write_guard_results(
    path: Path, folders: Sequence[Path], thresholds: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Judge recorded runs and write `guard.json`; returns the summary of all runs in it.

    Rows of other runs that the file holds stay, if they were made as runs are made now and judged by these thresholds.

    Args:
        path: The file: summary, rows, and the thresholds with the runs on which they were fixed.
        folders: Folders of the runs that the guard is scored on.
        thresholds: Of `thresholds_of`; None for those that the file holds.

    Raises:
        UsageError: There are none.
    """
    earlier = recorded(path)
    if thresholds is None and "guard" not in earlier.get("thresholds", ()):
        raise UsageError(f"{path} holds no thresholds; fix them with `rewarddance lab study guard --part thresholds`")
    fixed = earlier["thresholds"] if thresholds is None else thresholds
    detectors = Detectors(GuardConfig.model_validate(fixed["guard"]), SpreadConfig.model_validate(fixed["spread"]))
    made = [row_of(read_recorded(folder), detectors) for folder in folders]
    is_judged_alike = all(earlier.get("thresholds", {}).get(name) == fixed[name] for name in ("guard", "spread"))
    kept = [row for row in earlier.get("rows", ()) if is_judged_alike and _is_as_now(row)]
    rows = joined(kept, made, sorted({row["run"] for row in (*kept, *made)}), lambda row: str(row["run"]))
    figures = summary(rows)
    content = {
        "study": "guard",
        "command": "rewarddance lab study guard",
        "versions": package_versions(),
        "fall_share": FALL_SHARE,
        "noise": {"gold": NOISE, "pictures": NOISE_PICTURES},
        "summary": figures,
        "by_way": {
            way: summary([row for row in rows if row["way"] == way]) for way in sorted({row["way"] for row in rows})
        },
        "by_fall": by_fall(rows),
        "rows": rows,
        "thresholds": fixed,
    }
    write_json_atomic(path, content)
    return figures


def _is_as_now(row: Mapping[str, Any]) -> bool:
    """Whether a recorded run was looked at when the study looks."""
    return [int(step) for step in row["gold_by_step"]] == evaluated_steps(row["way"])


def _figures(rows: Sequence[dict[str, Any]], hacks: np.ndarray, detector: str) -> dict[str, Any]:
    alarms = np.array([row[detector]["alarm_step"] is not None for row in rows], dtype=bool)
    confusion = detector_confusion(hacks, alarms)
    caught = [row for row in rows if row["hacks"] and row[detector]["alarm_step"] is not None]
    kept = [row[detector]["kept_share"] for row in caught]
    delays = [row[detector]["alarm_step"] - row["peak_step"] for row in caught]
    return {
        "caught": confusion.caught,
        "catch_interval": confusion.catch_interval,
        "false_alarms": confusion.false_alarms,
        "false_alarm_interval": confusion.false_alarm_interval,
        "gold_kept_median": median(kept) if kept else None,
        "alarms_before_peak": sum(delay < 0 for delay in delays),
        "delay_median": median(delays) if delays else None,
    }
