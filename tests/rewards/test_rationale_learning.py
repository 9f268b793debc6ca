import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.types import Comparison, JudgementRequest, Media, Status
from rewarddance.rewards.protocol import LossSettings, PreparedComparisons, RewardModel, TeacherAnswers
from rewarddance.rewards.reasoned_judging import ReasonedJudge
from rewarddance.rewards.reasoning_settings import Format, ReasoningSettings
from rewarddance.rewards.replies import text_ids
from tests.rewards.conftest import NewModel

ANSWER_FIRST: list[Format] = ["answer_first"]
REASON_FIRST: list[Format] = ["reason_first"]


@pytest.fixture(scope="module")
def with_rationales(comparisons: list[Comparison]) -> list[Comparison]:
    """Four comparisons whose rationales name the better image."""
    better = {"first": "image 1", "second": "image 2"}
    return [replace(one, weight=1.0, rationale=f"{better[one.choice]} is a red square") for one in comparisons]


def losses(model: RewardModel, prepared: PreparedComparisons, **settings: float) -> torch.Tensor:
    return model.comparison_loss(prepared, LossSettings(**settings)).loss.detach()


def log_probability(model: RewardModel, comparison: Comparison, rationale: str, form: Format) -> float:
    """Mean log-probability of the learned tokens, from one plain forward pass of the whole text."""
    prepared = model.prepare_comparisons([replace(comparison, rationale=rationale)], [form])
    output = model.backbone.model(**{k: v for k, v in prepared.questions.inputs.items() if k != "feature_index"})
    said = {"answer_first": f"yes\n{rationale}<|im_end|>", "reason_first": f"{rationale}\nAnswer:yes"}[form]
    ids = model.backbone.tokenizer(said, add_special_tokens=False)["input_ids"]
    chances = output.logits[0, -len(ids) :].log_softmax(-1)
    learned = range(1, len(ids)) if form == "answer_first" else range(len(ids) - 1)
    return sum(chances[place, ids[place]].item() for place in learned) / len(learned)


@pytest.mark.parametrize("form", ["answer_first", "reason_first"])
def test_the_loss_is_the_weighted_sum_of_answer_and_tokens(new_model: NewModel, comparisons, form: Format):
    model = new_model("pairwise")
    # Both images are shown once, so that the inputs are those of the plain model. The second is better: yes.
    one = replace(comparisons[1], rationale="image 2 is a red square")
    prepared = model.prepare_comparisons([one], [form])
    tokens, answer = (losses(model, prepared, rationale_answer_weight=weight) for weight in (1e-9, 1.0))
    expected = -log_probability(model, one, "image 2 is a red square", form)
    assert tokens.item() == pytest.approx(expected, abs=1e-4)
    both = losses(model, prepared, rationale_answer_weight=0.1)
    assert both.item() == pytest.approx(0.1 * answer.item() + 0.9 * tokens.item(), abs=1e-5)


def test_an_answer_given_first_is_the_answer_that_is_learned_without_rationales(new_model, with_rationales):
    model = new_model("pairwise")
    plain = model.comparison_loss(model.prepare_comparisons(with_rationales), LossSettings())
    prepared = model.prepare_comparisons(with_rationales, ANSWER_FIRST * 4)
    told = model.comparison_loss(prepared, LossSettings(rationale_answer_weight=1.0))
    torch.testing.assert_close(told.log_odds, plain.log_odds, atol=1e-5, rtol=0)
    torch.testing.assert_close(told.loss, plain.loss, atol=1e-5, rtol=0)


def test_formats_share_a_batch_and_do_not_touch_each_other(new_model, with_rationales):
    model = new_model("pairwise")
    formats: list[Format] = ["answer_first", "reason_first", "answer_first", "reason_first"]
    together = losses(model, model.prepare_comparisons(with_rationales, formats))
    alone = [
        losses(model, model.prepare_comparisons([one], [form])).item()
        for one, form in zip(with_rationales, formats, strict=True)
    ]
    assert together.tolist() == pytest.approx(alone, abs=1e-4)


def test_without_a_rationale_or_a_preference_the_answer_is_all_that_is_learned(new_model, with_rationales):
    model = new_model("pairwise")
    rows = [replace(with_rationales[0], rationale=None), replace(with_rationales[1], choice="tie")]
    prepared = model.prepare_comparisons(rows, REASON_FIRST * 2)
    plain = model.prepare_comparisons(rows)
    assert prepared.rationales is not None
    assert prepared.rationales.is_reason_first.tolist() == [False, False]
    torch.testing.assert_close(losses(model, prepared), losses(model, plain), atol=1e-5, rtol=0)


def test_a_rationale_that_does_not_fit_names_its_comparison(new_model, with_rationales):
    model = new_model("pairwise")
    long = replace(with_rationales[0], id="the long one", rationale="red square " * 2000)
    with pytest.raises(DataError, match="the long one with its rationale"):
        model.prepare_comparisons([long], ANSWER_FIRST)


@pytest.mark.parametrize("kind", ["pointwise", "scalar"])
def test_models_that_see_one_medium_learn_no_rationales(new_model, with_rationales, kind):
    with pytest.raises(UsageError, match="pairwise"):
        new_model(kind).prepare_comparisons(with_rationales, ANSWER_FIRST * 4)


def test_the_teachers_share_is_learned_where_it_answered(new_model, comparisons):
    for kind in ("pairwise", "pointwise", "scalar"):
        model = new_model(kind)
        rows = [replace(one, weight=1.0) for one in comparisons[:2]]
        plain = model.prepare_comparisons(rows)
        teacher = TeacherAnswers(torch.tensor([2.0, 0.0]), torch.tensor([True, False]), torch.tensor([False, False]))
        taught = losses(model, replace(plain, teacher=teacher), teacher_weight=1.0)
        log_odds = model.comparison_loss(plain, LossSettings()).log_odds
        student = torch.distributions.Bernoulli(logits=log_odds[0])
        expected = torch.distributions.kl_divergence(torch.distributions.Bernoulli(logits=torch.tensor(2.0)), student)
        assert taught[0].item() == pytest.approx(expected.item(), abs=1e-5)
        assert taught[1].item() == pytest.approx(losses(model, plain)[1].item(), abs=1e-6)


def test_where_nobody_has_chosen_the_teacher_is_all_that_is_learned(new_model, comparisons):
    for kind in ("pairwise", "pointwise", "scalar"):
        model = new_model(kind)
        rows = [replace(one, weight=1.0) for one in comparisons[:2]]
        plain = model.prepare_comparisons(rows)
        log_odds = torch.tensor([2.0, 0.0])
        teacher = TeacherAnswers(log_odds, torch.tensor([True, False]), torch.tensor([True, True]))
        alone = losses(model, replace(plain, teacher=teacher), teacher_weight=0.3)
        judged = replace(teacher, is_alone=torch.tensor([False, False]))
        whole = losses(model, replace(plain, teacher=judged), teacher_weight=1.0)
        assert alone[0].item() == pytest.approx(whole[0].item(), abs=1e-6)
        assert alone[1].item() == 0.0


def test_what_a_teacher_says_is_not_learned_behind_a_rationale(new_model, with_rationales):
    model = new_model("pairwise")
    prepared = model.prepare_comparisons(with_rationales[:2], ["answer_first", "reason_first"])
    teacher = TeacherAnswers(torch.tensor([9.0, 9.0]), torch.tensor([True, True]), torch.tensor([False, False]))
    without, taught = losses(model, prepared), losses(model, replace(prepared, teacher=teacher))
    assert taught[0] != without[0]
    assert taught[1] == without[1]


def learn(model: RewardModel, comparisons: Sequence[Comparison], steps: int) -> None:
    both = [shown for one in comparisons for shown in (one, one.swapped())]
    formats: list[Format] = ["answer_first", "reason_first"]
    batches = [model.prepare_comparisons(both, [form] * len(both)) for form in formats]
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=4e-3)
    for step in range(steps):
        loss = model.comparison_loss(batches[step % 2], LossSettings(rationale_answer_weight=0.3)).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def learned(tiny_folder, with_rationales) -> RewardModel:
    from rewarddance.rewards.loading import new_reward_model

    model = new_reward_model(tiny_folder, "pairwise", instruction="none", device="cpu")
    learn(model, with_rationales[:2], 70)
    return model


def requests(comparisons: Sequence[Comparison]) -> list[JudgementRequest]:
    return [JudgementRequest(one.prompt, one.second, one.first) for one in comparisons]


@pytest.mark.parametrize("form", ["answer_first", "reason_first"])
def test_a_model_writes_the_rationales_that_it_learned_and_answers_by_them(learned, with_rationales, form: Format):
    rows = with_rationales[:2]
    judgements = learned.judge(requests(rows), reasoning=ReasoningSettings(form, max_tokens=24))
    assert [one.rationale for one in judgements] == [row.rationale for row in rows]
    assert [one.score > 0.5 for one in judgements] == [row.choice == "second" for row in rows]


def test_the_rationale_of_the_other_order_speaks_of_the_other_image(learned, with_rationales):
    one = with_rationales[0]
    shown = JudgementRequest(one.prompt, one.first, one.second)
    (judgement,) = learned.judge([shown], "one", reasoning=ReasoningSettings(max_tokens=24))
    assert judgement.rationale == "image 2 is a red square"


def test_scores_of_answers_given_first_do_not_change_when_reasons_are_asked_for(learned, with_rationales):
    asked = requests(with_rationales)
    plain = learned.judge(asked)
    explained = learned.judge(asked, reasoning=ReasoningSettings("answer_first", max_tokens=24))
    assert [one.reward for one in explained] == pytest.approx([one.reward for one in plain], abs=1e-4)
    assert all(one.rationale is None for one in plain)


def test_references_together_are_judged_together_when_reasons_are_asked_for_too(learned, with_rationales):
    one, other = with_rationales[:2]
    asked = [JudgementRequest(one.prompt, one.second, (one.first, other.first))]
    (plain,) = learned.judge(asked, "one", "together")
    (explained,) = learned.judge(asked, "one", "together", ReasoningSettings("answer_first", max_tokens=24))
    assert explained.reward == pytest.approx(plain.reward, abs=1e-4)
    assert explained.cost.questions == plain.cost.questions == 1


def test_rewards_change_sign_with_the_order_of_the_media(learned, with_rationales):
    settings = ReasoningSettings(samples=2, temperature=0.7, max_tokens=24)
    one = with_rationales[0]
    forward, backward = learned.judge(
        [JudgementRequest(one.prompt, one.second, one.first), JudgementRequest(one.prompt, one.first, one.second)],
        reasoning=settings,
    )
    assert forward.reward == pytest.approx(-backward.reward, abs=1e-4)
    assert forward.order_gap is not None


def test_the_cost_of_a_judgement_counts_both_orders_and_all_samples(learned, with_rationales):
    asked = requests(with_rationales[:1])
    (plain,) = learned.judge(asked)
    (explained,) = learned.judge(asked, reasoning=ReasoningSettings(max_tokens=24))
    words = len(text_ids(learned.backbone.tokenizer, "image 1 is a red square"))
    assert (plain.cost.questions, plain.cost.generated_tokens) == (2, 0)
    assert explained.cost.generated_tokens == 2 * (words + 1)  # the token that ends the line was drawn too
    assert explained.cost.read_tokens > plain.cost.read_tokens


def test_rationales_that_do_not_end_give_a_status_and_no_number(learned, with_rationales):
    (judgement,) = learned.judge(requests(with_rationales[:1]), reasoning=ReasoningSettings(max_tokens=2))
    assert (judgement.status, judgement.score, judgement.reward) == (Status.UNFINISHED_RATIONALE, None, None)
    assert "2 tokens" in judgement.message
    assert judgement.cost.unfinished_rationales == 2


def test_a_missing_rationale_behind_an_answer_costs_the_rationale_and_not_the_answer(learned, with_rationales):
    settings = ReasoningSettings("answer_first", max_tokens=2)
    (judgement,) = learned.judge(requests(with_rationales[:1]), reasoning=settings)
    assert judgement.is_ok
    assert judgement.score is not None
    assert judgement.rationale is None
    assert "2 tokens" in judgement.message


def test_a_broken_image_is_still_the_requests_own_status(learned, with_rationales, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    good, settings = requests(with_rationales[:1])[0], ReasoningSettings(max_tokens=24)
    bad = replace(good, candidate=Media(tmp_path / "broken.png"))
    first, second = learned.judge([bad, good], reasoning=settings)
    assert (first.status, second.status) == (Status.UNREADABLE_MEDIA, Status.OK)


def test_a_prompt_that_leaves_no_room_for_a_rationale_is_too_long(learned, with_rationales):
    asked = [replace(requests(with_rationales[:1])[0], prompt="a red square")]
    (plain,) = learned.judge(asked)
    # The questions of both orders are equally long, and leave exactly this much: too little for the answer behind it.
    room = learned.backbone.max_tokens - plain.cost.read_tokens // 2
    (judgement,) = learned.judge(asked, reasoning=ReasoningSettings(max_tokens=room))
    assert judgement.status is Status.TOO_LONG


def test_a_scalar_model_has_no_words(new_model, with_rationales):
    with pytest.raises(UsageError, match="scalar"):
        new_model("scalar").judge(requests(with_rationales), reasoning=ReasoningSettings())


def test_a_judge_that_always_reasons_adds_up_what_it_spends(learned, with_rationales):
    judge = ReasonedJudge(learned, ReasoningSettings(max_tokens=24))
    judgements = judge.judge(requests(with_rationales[:2]), order_mode="one")
    assert judge.spent.generated_tokens == sum(one.cost.generated_tokens for one in judgements)
    assert judge.spent.questions == 2


@pytest.mark.parametrize(
    "values",
    [
        {"samples": 0},
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"samples": 2, "temperature": 0.0},
        {"samples": 2, "temperature": 1.0, "format": "answer_first"},
    ],
)
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(UsageError):
        ReasoningSettings(**values)
