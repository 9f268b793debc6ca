"""Which prompts need the references that the policy makes on its way."""

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.training.new_references import prompts_to_renew, require_use_of_new_references
from rewarddance.training.prompt_draws import PromptDraws
from tests.training.stand_in_generator import align_config

PROMPTS = tuple(f"prompt {number}" for number in range(40))
GROUPED = {"name": "flow_grpo", "group_size": 4, "updates_per_rollout": 2}


@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize(("first", "count"), [(0, 1), (3, 2), (9, 8), (4, 60)])
def test_the_prompts_drawn_are_those_of_the_batches(group_size: int, first: int, count: int):
    # 40 prompts in batches of 8: batch 5 begins a new order, and 60 batches see every prompt.
    draws = PromptDraws(0, PROMPTS, 8)
    batches = draws.draws(first, count, group_size)
    asked = dict.fromkeys(prompt for draw in batches for prompt in draw.prompts)
    assert draws.drawn(first, count, group_size) == tuple(asked)


def drawn(config, draws, steps, group_size=1):
    """By the batches themselves, which method and pre-training take step by step."""
    batches = [draws.draws(step * config.gradient_accumulation, 2, group_size) for step in steps]
    return {prompt for batch in batches for draw in batch for prompt in draw.prompts}


def test_references_are_asked_for_until_they_are_due_again_or_the_run_ends(tmp_path):
    changes = {"optimizer_steps": 10, "gradient_accumulation": 2, "batch_size": 2}
    draws = PromptDraws(0, PROMPTS, 2)
    config = align_config(tmp_path, references={"refresh_every": 4}, **changes)
    assert set(prompts_to_renew(config, draws, 4, 1)) == drawn(config, draws, range(4, 8))
    assert set(prompts_to_renew(config, draws, 8, 1)) == drawn(config, draws, (8, 9))
    # The guard asks in between, and where no clock is, for the rest of the run.
    assert set(prompts_to_renew(config, draws, 6, 1)) == drawn(config, draws, (6, 7))
    clockless = align_config(tmp_path, **changes)
    assert set(prompts_to_renew(clockless, draws, 6, 1)) == drawn(config, draws, range(6, 10))


def test_a_rollout_is_finished_with_the_references_that_it_was_begun_with(tmp_path):
    # Of rollouts of two updates, references due at 3 and 6 come at 4 and 6.
    config = align_config(tmp_path, GROUPED, references={"refresh_every": 3}, optimizer_steps=8, batch_size=4)
    draws = PromptDraws(0, PROMPTS, 4)
    for step, rollouts in ((0, (0, 2)), (4, (4,)), (6, (6,))):
        assert set(prompts_to_renew(config, draws, step, 2)) == drawn(config, draws, rollouts, 4)


def test_the_pretraining_loss_comes_to_prompts_of_its_own(tmp_path):
    # Groups of four take one prompt for four pictures; that loss takes four.
    regulariser = {"pretraining_weight": 1.0, "pretraining_data": "references"}
    config = align_config(tmp_path, GROUPED, regulariser=regulariser, optimizer_steps=4, batch_size=4)
    draws = PromptDraws(0, PROMPTS, 4)
    own = {prompt for draw in draws.draws(2, 2) for prompt in draw.prompts}
    assert set(prompts_to_renew(config, draws, 2, 2)) == drawn(config, draws, (2,), 4) | own


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"references": {"refresh_every": 1}}, r"references\.refresh_every"),
        ({"guard": {"action": "refresh_references"}, "judges": [{"model": "j"}]}, r"guard\.action refresh_references"),
    ],
)
def test_references_that_nobody_would_read_are_not_made(tmp_path, changes, setting):
    config = align_config(tmp_path, **changes)
    with pytest.raises(UsageError, match=rf"{setting} makes new reference images, and no reward compares with any"):
        require_use_of_new_references(config, needs_references=False)
    require_use_of_new_references(config, needs_references=True)
    learned = {"regulariser": {"pretraining_weight": 1.0, "pretraining_data": "references"}}
    require_use_of_new_references(align_config(tmp_path, **changes, **learned), needs_references=False)


def test_without_new_references_a_reward_may_need_none(tmp_path):
    require_use_of_new_references(align_config(tmp_path), needs_references=False)
