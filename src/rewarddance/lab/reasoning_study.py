"""Study of reasoning: what rationales teach, what reasons at judgement add, and what a one-token student keeps of it.

Ways of judging, learned from the same comparisons and the same base: without rationales; with the lab teacher's true
rationales, answering at once; the same model, answering after its own reasons, averaged over samples; a student that
learns those answers and gives one token; and, to tell reasons from soft answers, a student of the model without
rationales. Fewer comparisons make the learning curve of the first two.

Source:
    RewardDance, arXiv:2509.08826, section 3.3 and Table 9 (fine-tuning with rationales, decision first).
    Z-Reward, arXiv:2606.09076 (RISD): reasons before the answer, distilled into one token.
    Differs: accuracy against gold instead of human scores of a tuned generator. The lab's teacher reads pixels as gold
    does, so that its rationales tell more than the noisy choices: the gain is that of knowing reasons as well as of
    giving them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from rewarddance.config.reasoning import DistillationConfig, RationaleConfig
from rewarddance.config.training import LoraConfig
from rewarddance.core.files import write_json_atomic
from rewarddance.core.types import JudgementCost, JudgementRequest
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.evaluation.evaluation_file import package_versions
from rewarddance.evaluation.judgement_rows import ROWS_NAME, read_rows
from rewarddance.lab.base_models import BaseSize, lab_base
from rewarddance.lab.comparisons import LabData
from rewarddance.lab.learning import (
    BEST_RATES,
    MIN_GOLD_DIFFERENCE,
    RATIONALE,
    REASONED_NAME,
    SPLIT_NAMES,
    TEST_SPLITS,
    LabRun,
    learn,
    measure,
)
from rewarddance.lab.paired_accuracy import SeedRows, accuracy_and_gain, share_kept
from rewarddance.lab.processes import make_all
from rewarddance.lab.recorded_results import joined, recorded, seeds_of
from rewarddance.lab.reward_study import COUNTS, SIZES, StudySettings, figures, study_data
from rewarddance.lab.teacher import LabTeacher, lab_judge
from rewarddance.lab.written_reasons import words_right
from rewarddance.rewards.protocol import RewardModel
from rewarddance.rewards.reasoning_settings import ReasoningSettings
from rewarddance.training.rationale_run import SUMMARY_NAME, NamedJudge, NamedTeacher, make_rationales

WayName = Literal["plain", "answer_first", "reason_first", "student", "plain_student"]

WAYS: tuple[WayName, ...] = ("plain", "answer_first", "reason_first", "student", "plain_student")
CURVE_WAYS: tuple[WayName, ...] = ("plain", "answer_first")
CURVE_SIZE: BaseSize = "micro"
CURVE = (500, 1000, 2000)
MAX_TOKENS = 96
"""Of the longest rationale: the teacher's are 35 tokens on average, and hardly ever 90."""

_COSTED = 32


@dataclass(frozen=True, slots=True)
class ReasoningRecipe:
    """How rationales are learned, and how reasons are asked for.

    The defaults are for the bases that ship, chosen on validation sets: writing is new to them, which takes longer
    than answering, at a higher rate.

    Attributes:
        rate: Peak learning rate with rationales; None for that of the choices alone.
        epochs: How often each comparison is seen where rationales are learned.
        rationale: How they are learned.
        plain_rate: Peak learning rate of the ways that write nothing; None for the best one of the bases that ship.
        plain_epochs: How often they see each comparison.
        lora: Adapters on the language model, with the vision tower as it is; None trains every weight.
        samples: Rationales of a question at judgement.
        taught_samples: The same where a student is taught.
        temperature: At which they are written.
    """

    rate: float | None = 3e-4
    epochs: int = 4
    rationale: RationaleConfig = RATIONALE
    plain_rate: float | None = None
    plain_epochs: int = 2
    lora: LoraConfig | None = None
    samples: int = 4
    taught_samples: int = 2
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class ReasoningCell:
    """Models from the same comparisons: plain, with rationales, and the student of either."""

    size: BaseSize
    comparisons: int
    seed: int

    @property
    def name(self) -> str:
        """Folder name of its runs."""
        return f"{self.size}-{self.comparisons}-{self.seed}"

    @property
    def ways(self) -> tuple[WayName, ...]:
        """All ways from all comparisons; on the learning curve those that write nothing."""
        return CURVE_WAYS if self.comparisons in CURVE else WAYS


@dataclass(frozen=True, slots=True)
class ReasoningStudy:
    """How the study is run.

    Attributes:
        folder: Where its own runs go; finished ones there are not made again.
        runs: Folder, data and seeds of `lab study paradigms`, whose comparisons are learned from.
        cells: Which models.
        recipe: How they learn and judge.
        base: The base model of every cell; None for the one that ships in its size.
        ways: Of every cell; None for those that a cell has by its number of comparisons.
        max_tokens: Longest rationale at judgement.
    """

    folder: Path
    runs: StudySettings
    cells: tuple[ReasoningCell, ...]
    recipe: ReasoningRecipe = ReasoningRecipe()
    base: Path | None = None
    ways: tuple[WayName, ...] | None = None
    max_tokens: int = MAX_TOKENS

    def ways_of(self, cell: ReasoningCell) -> tuple[WayName, ...]:
        """How a cell is asked."""
        return self.ways or cell.ways

    def run_folder(self, cell: ReasoningCell, way: WayName) -> Path:
        """Run directory of the model that judges in a way."""
        return self.folder / cell.name / ("rationales" if way in ("answer_first", "reason_first") else way)

    def answers(self, cell: ReasoningCell, way: WayName) -> Path:
        """What was answered in a way."""
        folder = self.run_folder(cell, way)
        return (folder / REASONED_NAME if way == "reason_first" else folder) / ROWS_NAME

    def rationales(self, seed: int) -> Path:
        """The training comparisons of a seed with their rationales."""
        return self.folder / f"rationales-{seed}"

    def reasoning(self, seed: int) -> ReasoningSettings:
        """How reasons are asked for."""
        recipe = self.recipe
        return ReasoningSettings("reason_first", recipe.samples, recipe.temperature, self.max_tokens, seed)


def reasoning_cells(seeds: Sequence[int], sizes: Sequence[BaseSize] = SIZES) -> tuple[ReasoningCell, ...]:
    """Every size on all comparisons and one size on fewer; those of the first seed first."""
    whole = [(size, COUNTS["train"]) for size in sizes]
    curve = [(CURVE_SIZE, count) for count in reversed(CURVE)] if CURVE_SIZE in sizes else []
    return tuple(ReasoningCell(size, count, seed) for seed in seeds for size, count in (*whole, *curve))


def run_reasoning(study: ReasoningStudy, on_done: Callable[[int], None] | None = None) -> list[dict[str, Any]]:
    """Make every cell that is not finished; one row a cell and way, in their order."""
    for seed in dict.fromkeys(cell.seed for cell in study.cells):
        write_rationales(study, seed)
    made = make_all(partial(learn_and_reason, study), study.cells, study.runs.jobs, on_done)
    return [row for rows in made for row in rows]


def write_rationales(study: ReasoningStudy, seed: int) -> None:
    """Let the lab's teacher explain the training choices of a seed; what convinces the lab's reader is kept."""
    folder = study.rationales(seed)
    if (folder / SUMMARY_NAME).is_file():
        return
    teacher = LabTeacher(seed=seed)
    comparisons = ComparisonSet.open(study_data(study.runs, seed).folder).select(split="train")
    make_rationales(comparisons, folder, NamedTeacher(teacher.name, teacher), NamedJudge("lab:gold", lab_judge))


def learn_and_reason(study: ReasoningStudy, cell: ReasoningCell) -> list[dict[str, Any]]:
    """One cell in a process of its own; its rows, one a way, are kept as `rows.json`."""
    torch.set_num_threads(1)
    kept = study.folder / cell.name / "rows.json"
    if kept.is_file():
        stored: list[dict[str, Any]] = json.loads(kept.read_text())
        return stored
    data = study_data(study.runs, cell.seed)
    rows = [_row(study, cell, way, data) for way in study.ways_of(cell)]
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(kept, rows)
    return rows


def write_reasoning_results(
    path: Path,
    study: ReasoningStudy,
    rows: Sequence[dict[str, Any]],
    whole: Callable[[Sequence[int]], tuple[ReasoningCell, ...]] = reasoning_cells,
) -> dict[str, Any]:
    """Write `reasoning.json`: a summary by size, number of comparisons and way, and every row; returns the summary.

    What the file holds of other sizes or numbers of comparisons stays.

    Args:
        path: Named as the study is.
        study: What was made.
        rows: Of its cells.
        whole: Every cell that the study has with given seeds.
    """
    recipe = study.recipe
    settings = {
        "split_sizes": dict(study.runs.counts),
        "min_gold_difference": MIN_GOLD_DIFFERENCE,
        "learning_rates": BEST_RATES,
        "rationale_rate": recipe.rate,
        "rationale_epochs": recipe.epochs,
        "rationale": recipe.rationale.model_dump(),
        "lora": recipe.lora and recipe.lora.model_dump(mode="json"),
        "plain_rate": recipe.plain_rate,
        "plain_epochs": recipe.plain_epochs,
        "samples": recipe.samples,
        "taught_samples": recipe.taught_samples,
        "temperature": recipe.temperature,
        "max_tokens": study.max_tokens,
    }
    earlier = recorded(path, settings)
    summary: dict[str, Any] = earlier.get("summary", {})
    cells = whole(seeds_of(earlier.get("rows", ()), study.runs.seeds))
    asked = [_row_key({**asdict(cell), "way": way}) for cell in cells for way in study.ways_of(cell)]
    every = joined(earlier.get("rows", ()), rows, asked, _row_key)
    for size, count in dict.fromkeys((cell.size, cell.comparisons) for cell in study.cells):
        own = [cell for cell in study.cells if (cell.size, cell.comparisons) == (size, count)]
        answers = {
            way: {cell.seed: read_rows(study.answers(cell, way)) for cell in own} for way in study.ways_of(own[0])
        }
        summary.setdefault(size, {})[str(count)] = ways_summary(answers)
    content = {
        "study": path.stem,
        "command": f"rewarddance lab study {path.stem}",
        "is_complete": len(every) == len(asked),
        "versions": package_versions(),
        **settings,
        "rationales": {
            seed: json.loads((study.rationales(seed) / SUMMARY_NAME).read_text())
            for seed in dict.fromkeys(cell.seed for cell in study.cells)
        },
        "summary": summary,
        "rows": every,
    }
    write_json_atomic(path, content)
    return summary


def _row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["size"], row["comparisons"], row["seed"], row["way"]


def ways_summary(answers: Mapping[WayName, SeedRows]) -> dict[str, Any]:
    """Accuracy of every way and its gain over `plain`.

    With students: the share of the gain of `reason_first` that `student` keeps, over `plain` and over the same model
    answering at once; and beside it `plain_student`, which learned soft answers as well, but none that reasons stand
    behind.

    Args:
        answers: Of every way, by seed.
    """
    plain = answers["plain"]
    summary: dict[str, Any] = {
        way: {split: accuracy_and_gain(plain, own, split) for split in TEST_SPLITS} for way, own in answers.items()
    }
    if "reason_first" in answers:
        summary["words_right"] = {split: words_right(answers["reason_first"], split) for split in TEST_SPLITS}
    if "student" in answers:
        summary["share_of_gain_that_the_student_keeps"] = {
            split: share_kept(plain, answers["reason_first"], answers["student"], split) for split in TEST_SPLITS
        }
        at_once, reasons = answers["answer_first"], answers["reason_first"]
        summary["gain_over_answering_at_once"] = {
            split: {
                "reason_first": accuracy_and_gain(at_once, reasons, split)["gain_by_prompt"],
                "kept_by_student": share_kept(at_once, reasons, answers["student"], split),
                "kept_by_plain_student": share_kept(at_once, reasons, answers["plain_student"], split),
            }
            for split in TEST_SPLITS
        }
        summary["student_over_plain_student"] = {
            split: accuracy_and_gain(answers["plain_student"], answers["student"], split) for split in TEST_SPLITS
        }
    return summary


def _row(study: ReasoningStudy, cell: ReasoningCell, way: WayName, data: LabData) -> dict[str, Any]:
    folder = study.run_folder(cell, way)
    reasoning = study.reasoning(cell.seed) if way == "reason_first" else None
    model = learn(_run(study, cell, way), data)
    parts = measure(model, data, folder, f"{cell.name}-{way}", reasoning=reasoning).facets["split"]
    return {
        **asdict(cell),
        "way": way,
        **{split: figures(parts[SPLIT_NAMES[split]]) for split in TEST_SPLITS},
        "cost": asdict(_cost(model, data, reasoning)),
        "teacher_generated_tokens": (model.training or {}).get("teacher_generated_tokens", 0),
    }


def _run(study: ReasoningStudy, cell: ReasoningCell, way: WayName) -> LabRun:
    recipe = study.recipe
    run = LabRun(
        study.base or lab_base(cell.size),
        cell.size,
        "pairwise",
        cell.seed,
        study.run_folder(cell, way),
        epochs=recipe.plain_epochs,
        learning_rate=recipe.plain_rate or BEST_RATES[cell.size],
        max_comparisons=cell.comparisons,
        lora=recipe.lora,
    )
    if way == "student":
        teacher = study.run_folder(cell, "reason_first") / "model"
        taught = DistillationConfig(
            teacher=str(teacher),
            samples=recipe.taught_samples,
            sampling_temperature=recipe.temperature,
            max_tokens=study.max_tokens,
        )
        return replace(run, distillation=taught)
    if way == "plain_student":
        teacher = study.run_folder(cell, "plain") / "model"
        return replace(run, distillation=DistillationConfig(teacher=str(teacher), format="answer_first"))
    if way == "plain":
        return run
    rationales = study.rationales(cell.seed)
    rate = recipe.rate or run.learning_rate
    return replace(run, rationales=rationales, rationale=recipe.rationale, learning_rate=rate, epochs=recipe.epochs)


def _cost(model: RewardModel, data: LabData, reasoning: ReasoningSettings | None) -> JudgementCost:
    """Of the first comparisons of the test in both orders, asked anew: kept answers do not tell what they took."""
    asked = ComparisonSet.open(data.folder).select(split="test_in")
    first = [asked[place] for place in range(min(_COSTED, len(asked)))]
    requests = [JudgementRequest(one.prompt, one.second, one.first) for one in first]
    judged = model.judge(requests, "two", reasoning=reasoning)
    return sum((one.cost for one in judged if one.cost is not None), JudgementCost())
