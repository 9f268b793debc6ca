import json
from pathlib import Path

import pytest

from rewarddance.lab.comparisons import Split
from rewarddance.lab.reasoning_study import (
    WAYS,
    ReasoningCell,
    ReasoningStudy,
    learn_and_reason,
    reasoning_cells,
    write_rationales,
    write_reasoning_results,
)
from rewarddance.lab.reward_study import StudySettings
from rewarddance.rewards.folder import read_record
from rewarddance.training.run_folder import RunFolder

COUNTS: tuple[tuple[Split, int], ...] = (("train", 12), ("validation", 4), ("test_in", 4), ("test_out", 4))
CELL = ReasoningCell("nano", 8, 0)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReasoningStudy:
    folder = tmp_path_factory.mktemp("study")
    asked = ReasoningStudy(folder / "reasoning", StudySettings(folder, (0,), COUNTS), (CELL,), max_tokens=24)
    write_rationales(asked, 0)
    return asked


@pytest.fixture(scope="module")
def rows(study):
    return {row["way"]: row for row in learn_and_reason(study, CELL)}


def test_one_size_has_a_learning_curve_and_every_size_all_comparisons():
    cells = reasoning_cells((0, 1))
    assert [cell.name for cell in cells[:3]] == ["nano-4000-0", "micro-4000-0", "small-4000-0"]
    assert sorted(cell.comparisons for cell in cells if cell.size == "micro" and cell.seed == 0) == [
        500,
        1000,
        2000,
        4000,
    ]
    assert {cell.seed for cell in cells[: len(cells) // 2]} == {0}
    assert {cell.comparisons: cell.ways for cell in cells if cell.size == "micro"} == {
        4000: WAYS,
        **dict.fromkeys((500, 1000, 2000), ("plain", "answer_first")),
    }


def test_every_way_is_judged_and_only_reasons_cost_written_tokens(rows):
    assert set(rows) == set(WAYS)
    written = {way: rows[way]["cost"]["generated_tokens"] for way in WAYS}
    assert {way for way, tokens in written.items() if tokens > 0} == {"reason_first"}
    # four comparisons in both orders
    assert {row["cost"]["questions"] for row in rows.values()} == {8}
    assert rows["student"]["teacher_generated_tokens"] > 0
    assert rows["plain_student"]["teacher_generated_tokens"] == 0


def test_the_models_learn_from_the_same_comparisons(study, rows):
    for way in WAYS:
        training = read_record(study.run_folder(CELL, way) / "model").training
        assert training["comparisons"] == 8
    config = RunFolder(study.run_folder(CELL, "reason_first")).config.read_text()
    assert "reason_first_share: 0.5" in config
    assert "answer_weight: 0.5" in config


def test_a_finished_cell_is_read_and_its_answers_make_the_summary(study, rows, tmp_path: Path):
    again = learn_and_reason(study, CELL)
    assert {row["way"]: row for row in again} == json.loads(json.dumps(rows))
    summary = write_reasoning_results(tmp_path / "reasoning.json", study, again)["nano"]["8"]
    assert summary["plain"]["test_in"]["gain"]["mean"] == 0.0
    for way in WAYS:
        assert summary[way]["test_out"]["accuracy"]["mean"] == rows[way]["test_out"]["accuracy"]["estimate"]
    difference = (
        rows["student"]["test_in"]["accuracy"]["estimate"] - rows["plain_student"]["test_in"]["accuracy"]["estimate"]
    )
    assert set(summary["gain_over_answering_at_once"]["test_in"]) == {
        "reason_first",
        "kept_by_student",
        "kept_by_plain_student",
    }
    gain = (
        rows["reason_first"]["test_in"]["accuracy"]["estimate"]
        - rows["answer_first"]["test_in"]["accuracy"]["estimate"]
    )
    assert summary["gain_over_answering_at_once"]["test_in"]["reason_first"]["estimate"] == pytest.approx(gain)
    assert summary["student_over_plain_student"]["test_in"]["gain"]["mean"] == pytest.approx(difference)
    stored = json.loads((tmp_path / "reasoning.json").read_text())
    assert stored["rationales"]["0"]["comparisons"] == 12
    assert stored["is_complete"] is False
