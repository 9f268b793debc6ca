from pathlib import Path

import numpy as np
import pytest

from rewarddance.core.errors import UsageError
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.lab.comparisons import GOLD_NAME, PreferenceNoise, choose, draw_comparisons, open_drawn
from rewarddance.lab.prompts import is_in_domain, parse_prompt
from tests.cli.command_line import contents


def test_a_comparison_does_not_depend_on_how_many_others_are_drawn(tmp_path: Path) -> None:
    few = draw_comparisons(tmp_path / "few", {"train": 3}, seed=5)
    many = draw_comparisons(tmp_path / "many", {"train": 6, "test_in": 2}, seed=5)
    assert all(many.gold[name] == pair for name, pair in few.gold.items())
    path = "media/train-00002-b.png"
    assert (few.folder / path).read_bytes() == (many.folder / path).read_bytes()


def test_what_was_drawn_is_read_back_with_its_gold(tmp_path: Path) -> None:
    drawn = draw_comparisons(tmp_path, {"train": 4, "test_out": 4}, seed=1)
    assert (drawn.count("train"), drawn.count("test_out"), drawn.count("test_in")) == (4, 4, 0)
    assert open_drawn(tmp_path) == drawn
    assert len(ComparisonSet.open(tmp_path).select(split="test_out")) == 4


def test_a_draw_does_not_replace_comparisons_of_other_settings(tmp_path: Path) -> None:
    draw_comparisons(tmp_path, {"train": 3}, seed=1)
    before = contents(tmp_path)
    for counts, seed in (({"train": 3}, 2), ({"train": 4}, 1)):
        with pytest.raises(UsageError, match="holds comparisons already; choose another folder"):
            draw_comparisons(tmp_path, counts, seed)
    assert contents(tmp_path) == before


def test_a_draw_is_made_again_by_its_own_settings(tmp_path: Path) -> None:
    draw_comparisons(tmp_path, {"train": 3}, seed=1)
    before = contents(tmp_path)
    (tmp_path / GOLD_NAME).unlink()  # what a kill at the end leaves
    draw_comparisons(tmp_path, {"train": 3}, seed=1)
    assert contents(tmp_path) == before


def test_a_draw_that_was_killed_leaves_its_folder_to_any_other(tmp_path: Path) -> None:
    def kill(drawn: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_comparisons(tmp_path, {"train": 3}, seed=1, on_drawn=kill)
    assert len(draw_comparisons(tmp_path, {"train": 2}, seed=2).gold) == 2


def test_training_prompts_stay_in_the_domain(tmp_path: Path) -> None:
    draw_comparisons(tmp_path, {"train": 40}, seed=2)
    assert all(is_in_domain(parse_prompt(item.prompt)) for item in ComparisonSet.open(tmp_path))


def test_choices_follow_gold_with_bradley_terry_noise() -> None:
    rng = np.random.default_rng(0)
    noise = PreferenceNoise(sharpness=12.0, tie_width=0.03)
    choices = [choose(0.1, rng, noise) for _ in range(4000)]
    decided = [choice for choice in choices if choice != "tie"]
    # sigmoid(12 * 0.1) = 0.7685; ties 0.5 exp(-0.1 / 0.03) = 0.0178; three standard errors of each
    assert abs(np.mean([choice == "second" for choice in decided]) - 0.7685) < 0.021
    assert abs(1 - len(decided) / len(choices) - 0.0178) < 0.0063


def test_equal_gold_is_a_tie_half_of_the_time() -> None:
    rng = np.random.default_rng(0)
    ties = np.mean([choose(0.0, rng, PreferenceNoise()) == "tie" for _ in range(4000)])
    assert abs(ties - 0.5) < 0.024  # three standard errors
