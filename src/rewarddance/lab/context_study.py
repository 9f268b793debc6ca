"""Study of what stands in a reward model's context: the words of its instruction; `reference_study` has the images.

The pairwise model is learned and judged without criteria, with generic ones and with task-aware ones, on the same
comparisons from the same base, all at the rate that was best on validation comparisons.

Source:
    RewardDance, arXiv:2509.08826, section 3.1 (task-aware instructions), for which the paper has no ablation.
    Differs: all comparisons of the lab are judged by one criterion and its base models have read few words, so that
    this measures what the words cost or help, and not whether a model can follow different ones.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from rewarddance.core.files import write_json_atomic
from rewarddance.evaluation.evaluation_file import package_versions
from rewarddance.evaluation.judgement_rows import ROWS_NAME, read_rows
from rewarddance.lab.base_models import BaseSize, lab_base
from rewarddance.lab.learning import BEST_RATES, MIN_GOLD_DIFFERENCE, SPLIT_NAMES, TEST_SPLITS, LabRun, learn, measure
from rewarddance.lab.paired_accuracy import SeedRows, accuracy_and_gain
from rewarddance.lab.processes import make_all
from rewarddance.lab.recorded_results import joined, recorded, seeds_of
from rewarddance.lab.reference_study import (
    ReferenceStudy,
    accuracies,
    draw_pictures,
    reference_cells,
    reference_summary,
)
from rewarddance.lab.reward_study import SIZES, StudySettings, figures, study_data

InstructionName = Literal["none", "generic", "overall"]

INSTRUCTIONS: tuple[InstructionName, ...] = ("none", "generic", "overall")
"""No criteria; one sentence that fits every task; and those of text-to-image, with what counts most."""


@dataclass(frozen=True, slots=True)
class InstructionCell:
    """One model: of which size, by which criteria, from which comparisons."""

    size: BaseSize
    instruction: InstructionName
    seed: int

    @property
    def name(self) -> str:
        """Folder name of the run."""
        return f"{self.size}-{self.instruction}-{self.seed}"


@dataclass(frozen=True, slots=True)
class InstructionStudy:
    """How the study is run.

    Attributes:
        folder: Where its runs go; finished ones there are not made again.
        runs: Folder, data and seeds of `lab study paradigms`, whose comparisons are learned from.
        cells: Which models.
    """

    folder: Path
    runs: StudySettings
    cells: tuple[InstructionCell, ...]

    def run_folder(self, cell: InstructionCell) -> Path:
        """Where model and answers of a cell are."""
        return self.folder / cell.name


def instruction_cells(seeds: Sequence[int], sizes: Sequence[BaseSize] = SIZES) -> tuple[InstructionCell, ...]:
    """Every model, those of the first seed first."""
    return tuple(InstructionCell(size, name, seed) for seed, size, name in product(seeds, sizes, INSTRUCTIONS))


def run_instructions(study: InstructionStudy, on_done: Callable[[int], None] | None = None) -> list[dict[str, Any]]:
    """Make every model that is not finished; one row a cell, in their order."""
    for seed in dict.fromkeys(cell.seed for cell in study.cells):
        study_data(study.runs, seed)
    return make_all(partial(learn_with_instruction, study), study.cells, study.runs.jobs, on_done)


def learn_with_instruction(study: InstructionStudy, cell: InstructionCell) -> dict[str, Any]:
    """One cell; its row is kept as `row.json`."""
    torch.set_num_threads(1)
    folder = study.run_folder(cell)
    kept = folder / "row.json"
    if kept.is_file():
        stored: dict[str, Any] = json.loads(kept.read_text())
        return stored
    data = study_data(study.runs, cell.seed)
    run = LabRun(
        lab_base(cell.size),
        cell.size,
        "pairwise",
        cell.seed,
        folder,
        learning_rate=BEST_RATES[cell.size],
        instruction=cell.instruction,
    )
    parts = measure(learn(run, data), data, folder, cell.name).facets["split"]
    row: dict[str, Any] = {**asdict(cell), **{split: figures(parts[SPLIT_NAMES[split]]) for split in TEST_SPLITS}}
    write_json_atomic(kept, row)
    return row


def instruction_summary(study: InstructionStudy) -> dict[str, Any]:
    """By size, instruction and split: accuracy, and the gain over no criteria on the same comparisons."""
    summary: dict[str, Any] = {}
    for size in dict.fromkeys(cell.size for cell in study.cells):
        answers = {name: _answers(study, size, name) for name in INSTRUCTIONS}
        summary[size] = {
            name: {split: accuracy_and_gain(answers["none"], own, split) for split in TEST_SPLITS}
            for name, own in answers.items()
            if own
        }
    return summary


def write_context_results(
    path: Path,
    instructions: tuple[InstructionStudy, Sequence[dict[str, Any]]],
    references: tuple[ReferenceStudy, Sequence[dict[str, Any]]] | None,
) -> dict[str, Any]:
    """Write `context.json`: both summaries, and a row a model; returns the summaries.

    What the file holds of other sizes stays.

    Args:
        path: The file.
        instructions: That study, with its rows.
        references: The other one, with its rows; None keeps what the file holds of it.
    """
    settings = {
        "split_sizes": dict(instructions[0].runs.counts),
        "min_gold_difference": MIN_GOLD_DIFFERENCE,
        "learning_rates": BEST_RATES,
    }
    earlier = recorded(path, settings)
    kept, kept_rows = earlier.get("summary", {}), earlier.get("rows", {})
    seeds = seeds_of(kept_rows.get("instructions", ()), instructions[0].runs.seeds)
    asked = [_cell_key(asdict(cell)) for cell in instruction_cells(seeds)]
    words = joined(kept_rows.get("instructions", ()), instructions[1], asked, _cell_key)
    by_size = {**kept.get("instructions", {}), **instruction_summary(instructions[0])}
    summary = {"instructions": by_size, "references": kept.get("references", {})}
    rows = {"instructions": words, "references": kept_rows.get("references", [])}
    pictures = earlier.get("pictures")
    if references is not None:
        gold, rewarded = draw_pictures(references[0]), references[0].rewarded
        summary["references"] = {**summary["references"], **reference_summary(references[1], gold, rewarded)}
        every = [(cell.size, cell.seed) for cell in reference_cells(seeds)]
        made = accuracies(references[1], gold, rewarded)
        rows["references"] = joined(rows["references"], made, every, lambda row: (row["size"], row["seed"]))
        pictures = {"prompts": len(gold), "rewarded": rewarded}
    content = {
        "study": "context",
        "command": "rewarddance lab study context",
        "versions": package_versions(),
        "is_complete": len(words) == len(asked) and len(rows["references"]) == len(SIZES) * len(seeds),
        **settings,
        "pictures": pictures,
        "summary": summary,
        "rows": rows,
    }
    write_json_atomic(path, content)
    return summary


def _cell_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["size"], row["instruction"], row["seed"]


def _answers(study: InstructionStudy, size: BaseSize, name: InstructionName) -> SeedRows:
    cells = [cell for cell in study.cells if (cell.size, cell.instruction) == (size, name)]
    return {cell.seed: read_rows(study.run_folder(cell) / ROWS_NAME) for cell in cells}
