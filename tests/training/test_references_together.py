"""Rewards against several reference images in one question."""

from pathlib import Path

import pytest
import torch

from rewarddance.core.errors import RewardError, UsageError
from rewarddance.core.types import Judgement, Status
from rewarddance.rewards.loading import new_reward_model
from rewarddance.training.reward_signal import JudgeReward, Patience, ReferenceUse, RewardSignal, reward_from_model
from tests.tiny_models import save_tiny_model

ONCE = Patience(deadline_seconds=None, tries=1, backoff_seconds=0.0)
TOGETHER = ReferenceUse("together")


def pictures(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = save_tiny_model("internvl", tmp_path_factory.mktemp("base"))
    return new_reward_model(folder, "pairwise", instruction="none", device="cpu")


def test_together_the_reward_is_that_of_one_question_and_has_a_gradient(model):
    signal = RewardSignal([reward_from_model(model, "m")], references=TOGETHER, patience=ONCE)
    pixels, sets = pictures(2).requires_grad_(True), [tuple(pictures(2, seed=seed)) for seed in (1, 2)]
    rewards = signal.log_odds(pixels, ["a", "b"], sets).combined
    shown = torch.stack([torch.stack(own) for own in sets])
    asked = model.reward(pixels, ["a", "b"], shown, reference_mode="together")
    torch.testing.assert_close(rewards, asked)
    (gradient,) = torch.autograd.grad(rewards.sum(), pixels)
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


def test_prompts_may_have_sets_of_different_sizes(model):
    signal = RewardSignal([reward_from_model(model, "m")], references=TOGETHER, patience=ONCE)
    pixels, sets = pictures(2), [tuple(pictures(2, seed=1)), tuple(pictures(3, seed=2))]
    both = signal.judge(pixels, ["a", "b"], sets).combined
    alone = [signal.judge(pixels[[row]], ["ab"[row]], [sets[row]]).combined for row in range(2)]
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-5, rtol=0)


def test_references_of_different_size_cannot_be_shown_together(model):
    signal = RewardSignal([reward_from_model(model, "m")], references=TOGETHER, patience=ONCE)
    with pytest.raises((UsageError, RewardError), match="differ in size"):
        signal.judge(pictures(1), ["a"], [(*pictures(1), *pictures(1, size=24))])


def test_a_judge_behind_a_service_gets_all_references_in_one_request():
    asked, modes = [], []

    def judge(requests, reference_mode=None):
        asked.extend(requests)
        modes.append(reference_mode)
        return [Judgement(Status.OK, score=0.5, reward=0.0) for _ in requests]

    signal = RewardSignal([JudgeReward("service", judge)], references=TOGETHER, patience=ONCE)
    signal.judge(pictures(1), ["a"], [tuple(pictures(3, seed=1))])
    assert [len(request.reference_images) for request in asked] == [3]
    assert modes == ["together"]
