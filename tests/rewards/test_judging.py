from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rewarddance.core.errors import UsageError
from rewarddance.core.types import Judgement, JudgementRequest, Status
from rewarddance.objectives.answer_token import answer_log_odds
from rewarddance.rewards.pairwise import PairwiseModel
from rewarddance.rewards.questions import Medium, comparison_question
from tests.rewards.conftest import NewModel

PROMPT = "a red square left of two blue circles"


@pytest.fixture
def pairwise(new_model: NewModel) -> Any:
    return new_model("pairwise")


def _requests(images: list[Image.Image]) -> list[JudgementRequest]:
    return [
        JudgementRequest(prompt, images[candidate], images[0], id=str(candidate))
        for candidate, prompt in enumerate([PROMPT, "a dog", PROMPT * 3, "cats", "two green triangles"], start=1)
    ]


def test_judgements_come_back_in_order_with_their_ids(pairwise: Any, images: list[Image.Image]):
    judgements = pairwise.judge(_requests(images))
    assert [judgement.id for judgement in judgements] == ["1", "2", "3", "4", "5"]
    assert all(judgement.is_ok and judgement.instruction == "brief" for judgement in judgements)


def test_a_prompt_with_half_a_character_fails_alone(pairwise: Any, images: list[Image.Image]):
    requests = _requests(images)
    plain = pairwise.judge(requests)
    requests[1] = replace(requests[1], prompt="a \ud800 dog")
    judgements = pairwise.judge(requests)
    assert (judgements[1].status, judgements[1].score) == (Status.FAILED, None)
    assert "half a character" in judgements[1].message
    assert [one.score for one in judgements[2:]] == [one.score for one in plain[2:]]


def test_the_score_is_the_sigmoid_of_the_reward(pairwise: Any, images: list[Image.Image]):
    judgement = pairwise.compare(PROMPT, images[1], images[0])
    assert judgement.score == pytest.approx(torch.sigmoid(torch.tensor(judgement.reward)).item())


def test_two_orders_are_antisymmetric(pairwise: Any, images: list[Image.Image]):
    one = pairwise.compare(PROMPT, images[1], images[0])
    other = pairwise.compare(PROMPT, images[0], images[1])
    assert one.reward == pytest.approx(-other.reward, abs=1e-6)
    assert one.order_gap == pytest.approx(other.order_gap, abs=1e-6)
    assert one.reward != 0


def test_two_orders_are_made_of_the_single_orders(pairwise: Any, images: list[Image.Image]):
    forward, backward = pairwise.judge(
        [JudgementRequest(PROMPT, images[1], images[0]), JudgementRequest(PROMPT, images[0], images[1])], "one"
    )
    both = pairwise.compare(PROMPT, images[1], images[0])
    assert both.reward == pytest.approx(0.5 * (forward.reward - backward.reward), abs=1e-6)
    assert both.order_gap == pytest.approx(abs(forward.score - (1 - backward.score)), abs=1e-6)
    assert both.leaked_mass == pytest.approx(0.5 * (forward.leaked_mass + backward.leaked_mass), abs=1e-6)


def test_one_order_has_no_gap(pairwise: Any, images: list[Image.Image]):
    assert pairwise.judge(_requests(images)[:1], "one")[0].order_gap is None


def test_the_order_mode_of_the_record_is_the_default(pairwise: Any, images: list[Image.Image]):
    single = PairwiseModel(pairwise.backbone, replace(pairwise.record, order_mode="one"))
    assert single.compare(PROMPT, images[1], images[0]).order_gap is None


def test_reward_and_leaked_mass_agree_with_the_whole_softmax(pairwise: Any, images: list[Image.Image]):
    backbone, answers = pairwise.backbone, pairwise.record.answers
    shown = [Medium("", (backbone.picture_from_image(image),)) for image in images[:2]]
    criteria = pairwise.record.instruction.text
    question = comparison_question(pairwise.record.wording, criteria, PROMPT, shown[0], shown[1])
    batch = backbone.collate([backbone.encode(question.parts)])
    with torch.no_grad():
        logits = backbone.model.eval()(**batch.inputs).logits[:, -1].double()
    judgement = pairwise.judge([JudgementRequest(PROMPT, images[1], images[0])], "one")[0]
    log_odds = answer_log_odds(logits, torch.tensor(answers.yes_ids), torch.tensor(answers.no_ids))
    assert judgement.reward == pytest.approx(log_odds.item(), abs=1e-5)
    outside = 1 - logits.softmax(-1)[:, list(answers.label_ids)].sum(-1)
    assert judgement.leaked_mass == pytest.approx(outside.item(), abs=1e-5)


def test_an_unreadable_image_leaves_the_others_bit_equal(pairwise: Any, images: list[Image.Image], tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    good = _requests(images)
    bad = JudgementRequest(PROMPT, broken, images[0], id="bad")
    judgements = pairwise.judge([*good[:2], bad, *good[2:]])
    assert judgements[2].status is Status.UNREADABLE_MEDIA
    assert "broken.png" in judgements[2].message
    assert judgements[:2] + judgements[3:] == pairwise.judge(good)


def test_a_prompt_of_100_000_characters_is_too_long_and_not_cut(pairwise: Any, images: list[Image.Image]):
    good = _requests(images)
    judgements = pairwise.judge([JudgementRequest("square " * 14_286, images[1], images[0]), *good])
    assert judgements[0].status is Status.TOO_LONG
    assert judgements[0].reward is None
    assert "tokens and the model can read 2,048" in judgements[0].message
    assert judgements[1:] == pairwise.judge(good)


def test_a_question_of_exactly_the_models_length_is_answered(pairwise: Any, images: list[Image.Image]):
    shown = [Medium("", (pairwise.backbone.picture_from_image(image),)) for image in images[:2]]
    question = comparison_question(pairwise.record.wording, pairwise.record.instruction.text, "", shown[0], shown[1])
    # Every further " a" is one token.
    room = pairwise.backbone.max_tokens - len(pairwise.backbone.encode(question.parts).token_ids)
    just_fits, one_more = (" a" * words for words in (room, room + 1))
    judgements = pairwise.judge([JudgementRequest(prompt, images[1], images[0]) for prompt in (just_fits, one_more)])
    assert [judgement.status for judgement in judgements] == [Status.OK, Status.TOO_LONG]


def test_an_answer_that_is_not_finite_has_no_score(pairwise: Any, images: list[Image.Image]):
    with torch.no_grad():
        pairwise.backbone.model.get_output_embeddings().weight[pairwise.record.answers.yes_ids[0]] = torch.nan
    judgement = pairwise.compare(PROMPT, images[1], images[0])
    assert judgement.status is Status.NON_FINITE
    assert judgement.score is None


def test_an_error_of_the_machine_is_raised(pairwise: Any, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch):
    def fail(_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(pairwise.backbone, "answer_states", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        pairwise.judge(_requests(images))


@pytest.mark.parametrize("kind", ["pairwise", "pointwise", "scalar"])
def test_a_reward_does_not_depend_on_its_batch(new_model: NewModel, images: list[Image.Image], kind: Any):
    model = new_model(kind)
    requests = _requests(images)
    together = model.judge(requests)
    alone = [model.judge([request])[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        assert one.reward == pytest.approx(other.reward, abs=1e-5)


def test_no_requests_give_no_judgements(pairwise: Any):
    assert pairwise.judge([]) == []


def test_more_requests_than_a_window_come_back_in_order(new_model: NewModel, images: list[Image.Image]):
    model = new_model("scalar")
    requests = [JudgementRequest(f"a {number}", images[number % 6], id=str(number)) for number in range(70)]
    judgements = model.judge(requests)
    assert [judgement.id for judgement in judgements] == [str(number) for number in range(70)]
    assert judgements[69].reward == pytest.approx(model.judge([requests[69]])[0].reward, abs=1e-5)


def test_the_same_question_is_asked_once(new_model: NewModel, images: list[Image.Image], monkeypatch: Any):
    model = new_model("pointwise")
    asked = []
    answer = model.backbone.answer_states
    monkeypatch.setattr(model.backbone, "answer_states", lambda rows: asked.extend(rows) or answer(rows))
    model.rank(PROMPT, images)
    assert len(asked) == 6


def test_a_pairwise_model_needs_a_reference_image(pairwise: Any, images: list[Image.Image]):
    with pytest.raises(UsageError, match="reference image"):
        pairwise.judge([JudgementRequest(PROMPT, images[1])])


@pytest.mark.parametrize("kind", ["pointwise", "scalar"])
def test_against_a_reference_image_the_reward_is_a_difference(
    new_model: NewModel, images: list[Image.Image], kind: Any
):
    model = new_model(kind)
    candidate, reference, both = model.judge(
        [
            JudgementRequest(PROMPT, images[1]),
            JudgementRequest(PROMPT, images[0]),
            JudgementRequest(PROMPT, images[1], images[0]),
        ]
    )
    assert both.reward == pytest.approx(candidate.reward - reference.reward, abs=1e-7)
    assert both.order_gap is None


def test_a_scalar_model_has_no_leaked_mass(new_model: NewModel, images: list[Image.Image]):
    assert new_model("scalar").judge([JudgementRequest(PROMPT, images[1])])[0].leaked_mass is None


def test_other_criteria_can_be_named(pairwise: Any, images: list[Image.Image]):
    own, other = pairwise.judge(
        [
            JudgementRequest(PROMPT, images[1], images[0]),
            JudgementRequest(PROMPT, images[1], images[0], instruction="none"),
        ]
    )
    assert (own.instruction, other.instruction) == ("brief", "none")
    assert own.reward != other.reward


def test_unknown_criteria_are_refused(pairwise: Any, images: list[Image.Image]):
    with pytest.raises(UsageError, match="no instruction named 'beauty'"):
        pairwise.compare(PROMPT, images[1], images[0], instruction="beauty")


def test_judging_leaves_the_modes_of_the_module_as_they_were(pairwise: Any, images: list[Image.Image]):
    pairwise.module.train()
    pairwise.backbone.model.get_output_embeddings().eval()
    pairwise.compare(PROMPT, images[1], images[0])
    assert pairwise.module.training
    assert not pairwise.backbone.model.get_output_embeddings().training


def test_a_path_bytes_and_an_image_give_the_same_judgement(pairwise: Any, images: list[Image.Image], tmp_path: Path):
    path = tmp_path / "one.png"
    images[1].save(path)
    sources = (images[1], path, str(path), path.read_bytes())
    judgements: list[Judgement] = [pairwise.compare(PROMPT, source, images[0]) for source in sources]
    assert len({judgement.reward for judgement in judgements}) == 1


def test_an_animation_is_judged_as_a_clip(pairwise: Any, images: list[Image.Image], tmp_path: Path):
    path = tmp_path / "clip.gif"
    images[0].save(path, save_all=True, append_images=images[1:4])
    still = tmp_path / "still.gif"
    images[0].save(still)
    moving, standing = (pairwise.compare(PROMPT, source, images[5]) for source in (path, still))
    assert moving.is_ok
    assert moving.reward != standing.reward


_WHITE = Image.new("RGB", (40, 40), "white")


class _Drawn(Sequence[JudgementRequest]):
    """Requests whose images exist only while they are asked about."""

    def __len__(self) -> int:
        return 240

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if index >= len(self):
            raise IndexError(index)
        grey = Image.new("RGB", (40, 40), (index,) * 3)
        return JudgementRequest(PROMPT, grey, _WHITE)


def test_requests_that_make_their_images_when_asked_get_answers_of_their_own(pairwise: Any):
    drawn = _Drawn()
    assert pairwise.judge(drawn, "one") == pairwise.judge(list(drawn), "one")


def test_reference_images_may_be_a_list(pairwise: Any, images: list[Image.Image]):
    listed = pairwise.compare(PROMPT, images[2], [images[0], images[1]])
    assert listed == pairwise.compare(PROMPT, images[2], (images[0], images[1]))
