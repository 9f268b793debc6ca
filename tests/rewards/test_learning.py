import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.types import Comparison, JudgementRequest, Media
from rewarddance.rewards.protocol import LossSettings, RewardModel
from tests.rewards.conftest import NewModel

KINDS = ["pairwise", "pointwise", "scalar"]
BOTH_ANSWERS = LossSettings(label_smoothing=0.1, answer_weight=0.5)


def _both_orders(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [shown for comparison in comparisons for shown in (comparison, comparison.swapped())]


def _learn(model: RewardModel, comparisons: Sequence[Comparison], steps: int) -> list[float]:
    prepared = model.prepare_comparisons(_both_orders(comparisons))
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = model.comparison_loss(prepared, LossSettings()).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_learn_a_small_batch_and_the_judge_knows_it(
    new_model: NewModel, comparisons: list[Comparison], kind: Any
):
    model = new_model(kind)
    losses = _learn(model, comparisons, 25)
    assert losses[-1] < 0.3 * losses[0]
    judgements = model.judge([JudgementRequest(one.prompt, one.second, one.first) for one in comparisons])
    assert [judgement.score > 0.5 for judgement in judgements if judgement.score is not None] == [
        one.choice == "second" for one in comparisons
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_log_odds_are_the_rewards_of_the_judge(
    new_model: NewModel, comparisons: list[Comparison], kind: Any
):
    model = new_model(kind)
    log_odds = model.comparison_loss(model.prepare_comparisons(comparisons), LossSettings()).log_odds
    judgements = model.judge([JudgementRequest(one.prompt, one.second, one.first) for one in comparisons], "one")
    assert log_odds.tolist() == pytest.approx([judgement.reward for judgement in judgements], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_formula_of_the_log_odds(new_model: NewModel, comparisons: list[Comparison], kind: Any):
    model = new_model(kind)
    result = model.comparison_loss(model.prepare_comparisons(comparisons), LossSettings(answer_weight=0.0))
    targets = torch.tensor([0.0, 1.0, 0.0, 1.0])
    predicted = result.log_odds.sigmoid()
    expected = -(targets * predicted.log() + (1 - targets) * (1 - predicted).log()) * torch.tensor([1.0, 1, 2, 1])
    torch.testing.assert_close(result.loss.detach(), expected, atol=1e-5, rtol=0)


def test_an_untrained_scalar_model_has_a_loss_of_about_ln_2(new_model: NewModel, comparisons: list[Comparison]):
    model = new_model("scalar")
    loss = model.comparison_loss(model.prepare_comparisons(comparisons[:2]), LossSettings()).loss
    assert loss.tolist() == pytest.approx([math.log(2)] * 2, abs=0.05)


def test_the_answer_weight_adds_the_cross_entropy_of_both_answers(new_model: NewModel, comparisons: list[Comparison]):
    model = new_model("pointwise")
    prepared = model.prepare_comparisons(comparisons[:2])
    without = model.comparison_loss(prepared, LossSettings(answer_weight=0.0)).loss
    with_answers = model.comparison_loss(prepared, LossSettings(answer_weight=0.5)).loss
    media = [one for pair in comparisons[:2] for one in (pair.first, pair.second)]
    first_a, second_a, first_b, second_b = (
        judgement.score for judgement in model.judge([JudgementRequest("a red square", one) for one in media])
    )
    # Comparison a: first is chosen (yes), second rejected (no); b the other way round.
    answers = [-math.log(first_a) - math.log(1 - second_a), -math.log(1 - first_b) - math.log(second_b)]
    assert (with_answers - without).tolist() == pytest.approx([0.5 * 0.5 * sum_ for sum_ in answers], abs=1e-5)


@pytest.mark.parametrize("kind", ["pointwise", "scalar"])
def test_without_positions_the_loss_is_the_same_in_both_orders(
    new_model: NewModel, comparisons: list[Comparison], kind: Any
):
    model = new_model(kind)
    shown, swapped = (
        model.comparison_loss(model.prepare_comparisons(order), BOTH_ANSWERS).loss
        for order in (comparisons, [one.swapped() for one in comparisons])
    )
    torch.testing.assert_close(shown, swapped)


@pytest.mark.parametrize(("kind", "questions"), [("pairwise", 8), ("pointwise", 6), ("scalar", 6)])
def test_a_question_that_several_comparisons_need_is_asked_once(
    new_model: NewModel, comparisons: list[Comparison], kind: Any, questions: int
):
    # Media 0 to 4, of which medium 0 is shown with two prompts: six pairs of prompt and medium.
    model = new_model(kind)
    shown = [order for one in comparisons for order in (one, one.swapped())]
    together = model.prepare_comparisons(shown)
    plan = together.questions.plan  # for the criteria are read once, too
    assert plan is not None
    assert len(set(plan.answers)) == questions
    log_odds = model.comparison_loss(together, LossSettings()).log_odds
    alone = [model.comparison_loss(model.prepare_comparisons([one]), LossSettings()).log_odds for one in shown]
    torch.testing.assert_close(log_odds, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tie_asks_for_one_half(new_model: NewModel, comparisons: list[Comparison], kind: Any):
    tie = replace(comparisons[0], choice="tie")
    assert new_model(kind).prepare_comparisons([tie]).targets.tolist() == [0.5]


def test_a_soft_label_goes_before_the_choice(new_model: NewModel, comparisons: list[Comparison]):
    soft = replace(comparisons[0], second_preference=0.3)
    assert new_model("scalar").prepare_comparisons([soft]).targets.tolist() == pytest.approx([0.3])


def test_a_comparison_without_judgement_is_refused(new_model: NewModel, comparisons: list[Comparison]):
    with pytest.raises(ValueError, match="comparison a is not judged"):
        new_model("pairwise").prepare_comparisons([replace(comparisons[0], choice=None)])


def test_an_empty_batch_is_refused(new_model: NewModel):
    with pytest.raises(ValueError, match="nothing to prepare"):
        new_model("pairwise").prepare_comparisons([])


def test_an_unreadable_medium_names_its_comparison(new_model: NewModel, comparisons: list[Comparison]):
    broken = replace(comparisons[0], second=Media(Path("missing.png")))
    with pytest.raises(DataError, match=r"comparison a: missing\.png"):
        new_model("pairwise").prepare_comparisons([broken])


def test_a_prompt_that_is_too_long_names_its_comparison(new_model: NewModel, comparisons: list[Comparison]):
    long = replace(comparisons[0], prompt="square " * 3_000)
    with pytest.raises(DataError, match="comparison a: the question takes"):
        new_model("pairwise").prepare_comparisons([long])


def test_the_criteria_of_a_comparison_are_used(new_model: NewModel, comparisons: list[Comparison]):
    model = new_model("pairwise")
    own, other = (
        model.prepare_comparisons([replace(comparisons[0], instruction=name)]).questions.inputs["input_ids"].shape[1]
        for name in (None, "none")
    )
    assert other < own
    with pytest.raises(UsageError, match="no instruction named"):
        model.prepare_comparisons([replace(comparisons[0], instruction="beauty")])


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_comparisons_travel_between_processes(new_model: NewModel, comparisons: list[Comparison], kind: Any):
    model = new_model(kind)
    prepared = model.prepare_comparisons(comparisons)
    copy = pickle.loads(pickle.dumps(prepared))
    assert copy.ids == ("a", "b", "c", "d")
    torch.testing.assert_close(
        model.comparison_loss(copy, LossSettings()).loss, model.comparison_loss(prepared, LossSettings()).loss
    )


def test_preparing_does_not_touch_the_weights(new_model: NewModel, comparisons: list[Comparison]):
    model = new_model("pairwise")
    padded = model.prepare_comparisons(comparisons[:1]).questions.inputs
    shared = model.prepare_comparisons(comparisons).questions.plan
    model.module.to("meta")  # weights without values
    for name, value in model.prepare_comparisons(comparisons[:1]).questions.inputs.items():
        assert torch.equal(value, padded[name])
    again = model.prepare_comparisons(comparisons).questions.plan
    assert shared is not None
    assert again is not None
    assert [one.codes.tolist() for one in again.passages] == [one.codes.tolist() for one in shared.passages]
