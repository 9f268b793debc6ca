import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from rewarddance.core.errors import UsageError
from rewarddance.lab.base_models import lab_base
from rewarddance.lab.describer import DescriberSettings, draw_item_to_describe, make_describer
from rewarddance.lab.describing_study import _MAKERS, describing_cells, describing_study
from rewarddance.lab.reasoning_study import ReasoningCell, learn_and_reason, write_rationales, write_reasoning_results
from rewarddance.lab.reward_study import StudySettings
from rewarddance.lab.world import SEEN_FAULTS, UNSEEN_FAULTS
from rewarddance.training.run_folder import RunFolder
from tests.lab.killed_courses import killed_and_resumed

SHORT = DescriberSettings("nano", items=24, known_items=12, batch_items=4, warmup_steps=1, save_every=2)
COMPARING = ("better", "than", "sharper", "cleaner", "richer")


@pytest.fixture(autouse=True)
def no_exam(monkeypatch):
    """Hundreds of questions to a model of six steps."""
    monkeypatch.setattr("rewarddance.lab.pretraining.examine", lambda model, tokenizer: {})


def weights(folder: Path) -> dict:  # type: ignore[type-arg]
    return load_file(folder / "model.safetensors")


def test_no_lesson_compares_two_pictures():
    items = [draw_item_to_describe(np.random.default_rng(seed), SEEN_FAULTS + UNSEEN_FAULTS) for seed in range(80)]
    lessons = [lesson for item in items for lesson in item.lessons]
    said = [f"{lesson.question} {lesson.answer}" for lesson in lessons]
    assert not [one for one in said if set(one.replace(".", "").split()) & set(COMPARING)]
    both = [one for one in said if "image 1" in one and "image 2" in one]
    assert all("What is wrong with the images" in one for one in both)
    assert {lesson.topic for lesson in lessons} >= {"description", "shows the prompt", "existence", "count"}


def test_the_faults_of_an_item_are_those_asked_for():
    for faults in (SEEN_FAULTS, UNSEEN_FAULTS):
        items = [draw_item_to_describe(np.random.default_rng(seed), faults) for seed in range(60)]
        names = {fault.name for item in items for candidate in item.candidates for fault in candidate.degradations}
        assert names == set(faults)


def test_it_begins_with_the_eyes_of_the_base_that_ships_and_a_new_language_model(tmp_path: Path):
    before = weights(lab_base("nano"))
    made = weights(make_describer(replace(SHORT, learning_rate=1e-9), tmp_path / "run"))
    assert made.keys() == before.keys()
    kept = {name for name, value in before.items() if np.allclose(made[name], value, atol=1e-6)}
    eyes = {name for name in before if "vision_tower" in name or "multi_modal_projector" in name}
    assert eyes <= kept
    assert not [name for name in kept - eyes if before[name].ndim == 2]


def test_a_killed_course_resumes_bit_identically(tmp_path: Path):
    resumed = weights(killed_and_resumed(partial(make_describer, SHORT), tmp_path / "killed"))
    whole = weights(make_describer(SHORT, tmp_path / "whole"))
    assert all((resumed[name] == value).all() for name, value in whole.items())


def test_a_course_by_another_recipe_is_refused(tmp_path: Path):
    make_describer(replace(SHORT, items=8), tmp_path)
    with pytest.raises(UsageError, match="known_items"):
        make_describer(replace(SHORT, items=8, known_items=8), tmp_path)


def test_the_study_asks_for_reasons_with_many_comparisons_and_few(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(
        _MAKERS, "describing_alone", lambda folder, on_progress: make_describer(SHORT, folder, on_progress)
    )
    counts = (("train", 8), ("validation", 4), ("test_in", 4), ("test_out", 4))
    study = describing_study("describing_alone", tmp_path / "alone", StudySettings(tmp_path, (0,), counts))
    assert [cell.name for cell in study.cells] == ["small-4000-0", "small-1000-0"]
    assert study.base == tmp_path / "alone" / "base" / "model"
    cells = (ReasoningCell("nano", 8, 0), ReasoningCell("nano", 4, 0))
    # a base that can finish a sentence
    study = replace(study, base=lab_base("nano"), cells=cells, max_tokens=24)
    write_rationales(study, 0)
    rows = [row for cell in cells for row in learn_and_reason(study, cell)]
    assert [row["way"] for row in rows] == ["plain", "answer_first", "reason_first"] * 2
    for cell in cells:
        config = RunFolder(study.run_folder(cell, "reason_first")).config.read_text()
        for line in ("freeze_vision: true", "rank: 16", "when_swapped: answer_alone", "reason_first_share: 0.75"):
            assert line in config
    whole = partial(describing_cells, "describing_alone")
    summary = write_reasoning_results(tmp_path / "describing_alone.json", study, rows, whole)["nano"]
    assert set(summary) == {"8", "4"}
    assert set(summary["8"]) == {"plain", "answer_first", "reason_first", "words_right"}
    assert not json.loads((tmp_path / "describing_alone.json").read_text())["is_complete"]
