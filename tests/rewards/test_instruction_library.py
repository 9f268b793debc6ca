from typing import get_args

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.rewards.instructions import (
    Task,
    dimension_names,
    instruction_names,
    stored_instruction,
    task_instruction,
)

TASKS = [task for task in get_args(Task) if task != "any"]

# Version and beginning of the text's digest, as they were published. A text that changes gets a new version and a new
# line: judgements and models name their criteria by these.
PUBLISHED = {
    "aesthetics": (1, "056e5da5341f7bdd"),
    "alignment": (1, "8e1156b34c908124"),
    "brief": (1, "638d8fd9b13fc5ee"),
    "editing_aesthetics": (1, "e830878b85739ffd"),
    "editing_alignment": (1, "f7111114d7d524e4"),
    "editing_overall": (1, "387fdbb563e24ef0"),
    "editing_preservation": (1, "1d0585c125ff0b6c"),
    "editing_structure": (1, "52472e62288b0149"),
    "generic": (1, "c1e5f60e8df2645f"),
    "image_to_video_aesthetics": (1, "146dc9695ed684e3"),
    "image_to_video_alignment": (1, "25bd3e729018377c"),
    "image_to_video_motion": (1, "46f3ad627eeb98e4"),
    "image_to_video_overall": (1, "ffc49742004f6a36"),
    "image_to_video_preservation": (1, "71d5a43ef8a8b8cc"),
    "image_to_video_structure": (1, "3edd993f5809c40f"),
    "none": (1, "e3b0c44298fc1c14"),
    "overall": (1, "36b2166f303ccbad"),
    "structure": (1, "8c1405a5abe4f257"),
    "text_to_video_aesthetics": (1, "4bfbd793c123bcbb"),
    "text_to_video_alignment": (1, "b16b5c2316868c93"),
    "text_to_video_motion": (1, "0341bb2d65158eda"),
    "text_to_video_overall": (1, "b1ba4ce77bfd6322"),
    "text_to_video_structure": (1, "246e4963292cfcc1"),
}


@pytest.mark.parametrize("name", instruction_names())
def test_a_text_changes_only_with_its_version(name: str):
    instruction = stored_instruction(name)
    assert (instruction.version, instruction.sha256[:16]) == PUBLISHED.get(name)


def test_no_published_criteria_are_gone():
    assert set(PUBLISHED) <= set(instruction_names())


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_criteria_for_the_whole_and_for_its_parts(task: Task):
    assert {"overall", "alignment", "structure", "aesthetics"} <= set(dimension_names(task))


@pytest.mark.parametrize("task", TASKS)
def test_the_criteria_of_a_task_are_found_by_dimension(task: Task):
    for dimension in dimension_names(task):
        found = task_instruction(task, dimension)
        assert (found.task, found.dimension) == (task, dimension)


def test_tasks_that_start_from_a_picture_judge_what_is_kept_of_it():
    for task in ("image_to_video", "editing"):
        assert "preservation" in dimension_names(task)
        assert "source" in task_instruction(task).text


def test_an_unknown_dimension_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="no criteria for 'motion' of editing; its dimensions are aesthetics, align"):
        task_instruction("editing", "motion")


def test_criteria_differ_from_each_other():
    texts = [stored_instruction(name).text for name in instruction_names()]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", [name for name in instruction_names() if name != "none"])
def test_criteria_are_one_paragraph_without_stray_blanks(name: str):
    text = stored_instruction(name).text
    assert text == " ".join(text.split())
