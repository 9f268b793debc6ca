from pathlib import Path

import pytest

from rewarddance.core.types import Status
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.evaluation.judgement_rows import ROWS_NAME, Answer, JudgementRow, write_rows
from rewarddance.lab.comparisons import Split
from rewarddance.lab.context_study import (
    InstructionCell,
    InstructionStudy,
    instruction_cells,
    instruction_summary,
    learn_with_instruction,
)
from rewarddance.lab.reward_study import StudySettings, study_data
from rewarddance.rewards.folder import read_record

COUNTS: tuple[tuple[Split, int], ...] = (("train", 8), ("validation", 4), ("test_in", 4), ("test_out", 4))


def study(folder: Path, *cells: InstructionCell) -> InstructionStudy:
    return InstructionStudy(folder / "context", StudySettings(folder, (0,), COUNTS), cells)


def test_every_instruction_meets_every_size_on_the_comparisons_of_a_seed():
    cells = instruction_cells((0, 1))
    assert len(cells) == 2 * 3 * 3
    assert {cell.seed for cell in cells[:9]} == {0}
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_model_learns_and_is_judged_by_its_criteria_and_is_not_made_twice(tmp_path: Path):
    cell = InstructionCell("nano", "generic", 0)
    asked = study(tmp_path, cell)
    row = learn_with_instruction(asked, cell)
    folder = asked.run_folder(cell)
    assert read_record(folder / "model").instruction.name == "generic"
    assert (row["instruction"], row["test_in"]["n_failed"]) == ("generic", 0)
    written = (folder / ROWS_NAME).stat().st_mtime_ns
    assert learn_with_instruction(asked, cell) == row
    assert (folder / ROWS_NAME).stat().st_mtime_ns == written


def test_a_gain_is_over_no_criteria_on_the_same_comparisons(tmp_path: Path):
    cells = [InstructionCell("nano", name, 0) for name in ("none", "overall")]
    asked = study(tmp_path, *cells)
    comparisons = ComparisonSet.open(study_data(asked.runs, 0).folder)
    for cell, right in zip(cells, ("+-", "++"), strict=True):
        answers = [
            JudgementRow(
                id=one.id,
                key="",
                cluster=one.prompt,
                prompt=one.prompt,
                media=("a", "b"),
                forward=Answer(Status.OK, 1.0 if right[place % 2] == "+" else -1.0),
                backward=None,
                target=one.target,
                gold=0.5,
                facets={"split": name},
            )
            for split, name in (("test_in", "in domain"), ("test_out", "out of domain"))
            for place, one in enumerate(comparisons.select(split=split))
        ]
        asked.run_folder(cell).mkdir(parents=True)
        write_rows(asked.run_folder(cell) / ROWS_NAME, answers)
    summary = instruction_summary(asked)["nano"]
    # every second choice is right without criteria, and every one with them
    assert summary["none"]["test_in"]["accuracy"]["mean"] == 0.5
    assert summary["overall"]["test_out"]["gain"]["mean"] == pytest.approx(0.5)
    assert "generic" not in summary
