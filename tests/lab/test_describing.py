from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from rewarddance.lab.base_models import lab_base
from rewarddance.lab.describing import QUESTION, DescribingSettings, draw_described_item, learn_to_describe
from rewarddance.lab.describing_study import _MAKERS, RECIPES, describing_cells, describing_study
from rewarddance.lab.reasoning_study import ReasoningCell, learn_and_reason, write_rationales, write_reasoning_results
from rewarddance.lab.reward_study import StudySettings
from rewarddance.lab.world import UNSEEN_FAULTS
from rewarddance.rewards.folder import read_record
from rewarddance.training.run_folder import RunFolder
from tests.lab.killed_courses import killed_and_resumed

SHORT = DescribingSettings("nano", items=24, batch_items=4, heads_steps=2, warmup_steps=1, save_every=3)


def weights(folder: Path) -> dict:  # type: ignore[type-arg]
    return load_file(folder / "model.safetensors")


def test_a_lesson_says_what_is_wrong_and_not_which_picture_is_better():
    items = [draw_described_item(np.random.default_rng(seed)) for seed in range(60)]
    described = [lesson for item in items for lesson in item.lessons if lesson.question == QUESTION]
    assert len(described) == 60
    assert all(lesson.answer.startswith("image 1 has ") and "better" not in lesson.answer for lesson in described)
    assert {lesson.answer.split(".")[0] for lesson in described} > {"image 1 has everything"}
    names = {fault.name for item in items for candidate in item.candidates for fault in candidate.degradations}
    assert not names & set(UNSEEN_FAULTS)


def test_the_heads_learn_alone_first_and_then_the_base_with_them(tmp_path: Path):
    before = weights(lab_base("nano"))
    heads_only = learn_to_describe(replace(SHORT, items=8), tmp_path / "heads")
    assert all((weights(heads_only)[name] == value).all() for name, value in before.items())
    whole = learn_to_describe(SHORT, tmp_path / "whole")
    assert any((weights(whole)[name] != value).any() for name, value in before.items())


def test_a_killed_course_resumes_bit_identically(tmp_path: Path):
    resumed = weights(killed_and_resumed(partial(learn_to_describe, SHORT), tmp_path / "killed"))
    whole = weights(learn_to_describe(SHORT, tmp_path / "whole"))
    assert all((resumed[name] == value).all() for name, value in whole.items())


def test_the_study_begins_with_its_own_base_and_asks_one_greedy_rationale(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(
        _MAKERS, "describing", lambda folder, on_progress: learn_to_describe(SHORT, folder, on_progress)
    )
    counts = (("train", 8), ("validation", 4), ("test_in", 4), ("test_out", 4))
    study = describing_study("describing", tmp_path / "describing", StudySettings(tmp_path, (0,), counts))
    assert study.base == tmp_path / "describing" / "base" / "model"
    cell = ReasoningCell("nano", 8, 0)
    study = replace(study, cells=(cell,), max_tokens=24)
    write_rationales(study, 0)
    rows = learn_and_reason(study, cell)
    for way in cell.ways:
        config = RunFolder(study.run_folder(cell, way)).config.read_text()
        assert str(study.base) in config
    assert read_record(study.run_folder(cell, "student") / "model").training["teacher_generated_tokens"] > 0
    assert "sampling_temperature: 0.0" in RunFolder(study.run_folder(cell, "student")).config.read_text()
    write_reasoning_results(tmp_path / "describing.json", study, rows, partial(describing_cells, "describing"))
    stored = (tmp_path / "describing.json").read_text()
    assert '"command": "rewarddance lab study describing"' in stored
    assert f'"samples": {RECIPES["describing"].samples}' in stored


def test_the_study_is_of_the_largest_base_and_every_comparison():
    assert [cell.name for cell in describing_cells("describing", (0, 1))] == ["small-4000-0", "small-4000-1"]
