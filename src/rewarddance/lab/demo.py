"""The demo: from nothing to two reward models and an aligned generator, measured and shown on one page.

It draws comparisons of the lab's world, trains the pairwise generative and the scalar model from the same base on
the same comparisons, and evaluates both in and out of domain. Then the pairwise model chooses reference images among
the generator's own pictures and tunes the generator by ReFL, with the scalar model as the guard's held-out judge, and
searches for the best pictures of the generator as it was. Everything ends in `report.html` and `summary.json`.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rewarddance.config.guard import GuardConfig
from rewarddance.core.errors import UsageError
from rewarddance.core.files import write_json_atomic
from rewarddance.data.prompts import read_prompts
from rewarddance.evaluation.preference_report import GroupReport, PreferenceReport
from rewarddance.lab.alignment import (
    HELD_OUT_NAME,
    LabAlignment,
    align_in_lab,
    draw_references,
    gold_by_step,
    prompt_count,
    write_prompts,
)
from rewarddance.lab.base_models import BaseSize, lab_base
from rewarddance.lab.comparisons import LabData, Split, draw_comparisons, open_drawn
from rewarddance.lab.demo_search import DemoSearch, search_in_demo, search_section, summary_of
from rewarddance.lab.learning import LabRun, clear_gold, learn, measure
from rewarddance.reports.html_page import write_page
from rewarddance.reports.run_files import read_run
from rewarddance.reports.run_report import run_page
from rewarddance.rewards.protocol import RewardKind

REPORT_NAME, SUMMARY_NAME = "report.html", "summary.json"
KINDS: tuple[RewardKind, ...] = ("pairwise", "scalar")
ALIGNED, SEARCHED = "aligned", "search"

_LEARNING_RATE = 3e-4

Stage = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""Shows how far a stage is: takes its name and its number of items, gives a function of the items done."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """How large the demo is.

    Attributes:
        folder: Where everything is written; what is finished there is not made again.
        size: Base model of both reward models.
        train: Comparisons to learn from.
        test: Comparisons of each test split.
        epochs: How often each comparison is seen.
        alignment_steps: Updates of the generator.
        searched_prompts: Held-out prompts of the search, at most.
        seed: Decides everything.
    """

    folder: Path
    size: BaseSize = "micro"
    train: int = 1600
    test: int = 300
    epochs: int = 3
    alignment_steps: int = 60
    searched_prompts: int = 24
    seed: int = 0


def run_demo(settings: DemoSettings, stage: Stage) -> dict[str, Any]:
    """Run the demo, or what is left of it; returns what `summary.json` holds."""
    began = time.perf_counter()
    data = _drawn(settings, stage)
    reports: dict[RewardKind, PreferenceReport] = {}
    for kind in KINDS:
        folder = settings.folder / kind
        run = LabRun(
            lab_base(settings.size), settings.size, kind, settings.seed, folder, settings.epochs, _LEARNING_RATE
        )
        model = learn(run, data)
        with stage(f"judging with the {kind} model", 2 * settings.test) as show:
            reports[kind] = measure(model, data, folder, kind, show)
    aligned = _aligned(settings, stage)
    job = _search(settings)
    found = search_in_demo(job, stage)
    runs = [read_run(settings.folder / name) for name in (*KINDS, ALIGNED)]
    title = "RewardDance demo: two reward models of the lab, and a generator tuned with one of them"
    page = run_page(runs, title, extra=(search_section(found, job.prompts),))
    write_page(page, settings.folder / REPORT_NAME)
    summary = {
        "seconds": round(time.perf_counter() - began, 1),
        "base": settings.size,
        "comparisons": settings.train,
        "models": {
            kind: {name: figures(group) for name, group in report.facets["split"].items()}
            for kind, report in reports.items()
        },
        "alignment": aligned,
        "search": summary_of(found),
    }
    write_json_atomic(settings.folder / SUMMARY_NAME, summary)
    return summary


def figures(group: GroupReport) -> dict[str, float | None]:
    """The headline of one split: accuracy against gold that differs clearly, and what the order does."""
    clear = clear_gold(group)
    one_order, inconsistent = clear.accuracy_mean_orders, clear.share_inconsistent
    return {
        "gold_accuracy": clear.accuracy.estimate,
        "gold_accuracy_low": clear.accuracy.low,
        "gold_accuracy_high": clear.accuracy.high,
        "gold_accuracy_one_order": None if one_order is None else one_order.estimate,
        "share_inconsistent_one_order": None if inconsistent is None else inconsistent.estimate,
        "choice_accuracy": None if group.accuracy is None else group.accuracy.estimate,
        "calibration_error": None if group.calibration is None else group.calibration.ece,
    }


def _aligned(settings: DemoSettings, stage: Stage) -> dict[str, Any]:
    """Reference images, ReFL with the guard, and what became of gold."""
    prompts, references = settings.folder / "prompts", settings.folder / "references"
    if not prompts.is_dir():
        write_prompts(prompts, settings.seed, per_kind=16)
    reward, judge = (settings.folder / kind / "model" for kind in KINDS)
    with stage("choosing reference images", prompt_count(prompts)) as show:
        draw_references(references, prompts, reward, candidates=3, seed=settings.seed, on_done=show)
    run = LabAlignment(
        folder=settings.folder / ALIGNED,
        prompts=prompts,
        references=references,
        reward=reward,
        judges=(judge,),
        optimizer_steps=settings.alignment_steps,
        guard=GuardConfig(),
        seed=settings.seed,
    )
    result = align_in_lab(run)
    gold = gold_by_step(run.folder)
    return {
        "optimizer_steps": result.optimizer_steps,
        "ending": result.ending,
        "verdict": result.verdict,
        "kept_step": result.kept_step,
        "gold_before": gold[0],
        "gold_kept": gold.get(result.kept_step),
        "gold_last": gold[max(gold)],
    }


def _search(settings: DemoSettings) -> DemoSearch:
    prompts = tuple(read_prompts(settings.folder / "prompts" / HELD_OUT_NAME)[: settings.searched_prompts])
    verifier, judge = (settings.folder / kind / "model" for kind in KINDS)
    return DemoSearch(
        settings.folder / SEARCHED, prompts, settings.folder / "references", verifier, judge, settings.seed
    )


def _refuse_another(settings: DemoSettings) -> None:
    """A folder holds one demo: with other settings its data and models would be taken for this one's."""
    path = settings.folder / "demo.json"
    asked = {name: value for name, value in asdict(settings).items() if name != "folder"}
    if path.is_file() and json.loads(path.read_text()) != asked:
        raise UsageError(f"{settings.folder} holds a demo with other settings; give another --out, or remove it")
    settings.folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, asked)


def _drawn(settings: DemoSettings, stage: Stage) -> LabData:
    counts: dict[Split, int] = {
        "train": settings.train,
        "validation": 200,
        "test_in": settings.test,
        "test_out": settings.test,
    }
    folder = settings.folder / "data"
    _refuse_another(settings)
    with stage("drawing comparisons", sum(counts.values())) as show:
        return open_drawn(folder) or draw_comparisons(folder, counts, settings.seed, on_drawn=show)
