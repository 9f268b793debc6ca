from pathlib import Path

from rewarddance.data.prompts import PromptItem
from rewarddance.data.set_back import in_turn, set_back

ITEMS = tuple(PromptItem(str(number), text) for number, text in enumerate(("a cat", "a dog", "a hen")))


def test_prompts_come_as_they_are_until_one_is_set_back(tmp_path: Path):
    assert in_turn(tmp_path, ITEMS) == ITEMS
    set_back(tmp_path, "a cat")
    assert [item.prompt for item in in_turn(tmp_path, ITEMS)] == ["a dog", "a hen", "a cat"]


def test_the_one_that_was_set_back_last_comes_last(tmp_path: Path):
    for prompt in ("a cat", "a dog", "a cat"):
        set_back(tmp_path, prompt)
    assert [item.prompt for item in in_turn(tmp_path, ITEMS)] == ["a hen", "a dog", "a cat"]
