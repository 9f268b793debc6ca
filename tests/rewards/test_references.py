from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rewarddance.core.errors import UsageError
from rewarddance.core.types import Comparison, JudgementRequest, Status
from rewarddance.rewards.pairwise import PairwiseModel
from rewarddance.rewards.protocol import LossSettings
from tests.rewards.conftest import NewModel

PROMPT = "a red square left of two blue circles"


@pytest.fixture
def pairwise(new_model: NewModel) -> Any:
    return new_model("pairwise")


@pytest.fixture
def pixels() -> torch.Tensor:
    """One candidate and two references."""
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_references_one_by_one_give_the_mean_of_their_rewards(pairwise: Any, images: list[Image.Image]):
    alone = [pairwise.compare(PROMPT, images[0], reference) for reference in images[1:4]]
    together = pairwise.compare(PROMPT, images[0], tuple(images[1:4]))
    assert together.reward == pytest.approx(sum(one.reward for one in alone) / 3, abs=1e-5)
    assert together.order_gap == pytest.approx(sum(one.order_gap for one in alone) / 3, abs=1e-5)
    assert together.score == pytest.approx(torch.sigmoid(torch.tensor(together.reward)).item())


def test_references_one_by_one_may_stand_in_any_order(pairwise: Any, images: list[Image.Image]):
    one, other = ((images[1], images[2]), (images[2], images[1]))
    rewards = [pairwise.compare(PROMPT, images[0], references).reward for references in (one, other)]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-6)


def test_references_together_are_one_question_of_each_order(pairwise: Any, images: list[Image.Image]):
    request = JudgementRequest(PROMPT, images[0], (images[1], images[2]))
    both = pairwise.judge([request], reference_mode="together")[0]
    one = pairwise.judge([request], "one", "together")[0]
    assert both.reward != pytest.approx(pairwise.judge([request])[0].reward, abs=1e-6)
    assert one.order_gap is None
    assert 0 <= both.order_gap <= 1


def test_one_reference_is_the_same_in_both_modes(pairwise: Any, images: list[Image.Image]):
    requests = [JudgementRequest(PROMPT, images[0], shown) for shown in (images[1], (images[1],))]
    judged = [pairwise.judge(requests, reference_mode=mode) for mode in ("together", "one_by_one")]
    assert len({judgement.reward for both in judged for judgement in both}) == 1


def test_a_model_that_learned_references_together_shows_them_together(pairwise: Any, images: list[Image.Image]):
    taught = PairwiseModel(pairwise.backbone, replace(pairwise.record, reference_mode="together"))
    request = JudgementRequest(PROMPT, images[0], (images[1], images[2]))
    assert taught.judge([request]) == pairwise.judge([request], reference_mode="together")


@pytest.mark.parametrize("mode", ["one_by_one", "together"])
def test_one_unreadable_reference_fails_the_judgement(
    pairwise: Any, images: list[Image.Image], tmp_path: Path, mode: Any
):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    judgement = pairwise.judge([JudgementRequest(PROMPT, images[0], (images[1], broken))], reference_mode=mode)[0]
    assert (judgement.status, judgement.score, judgement.reward) == (Status.UNREADABLE_MEDIA, None, None)


def test_no_references_in_a_tuple_are_none(pairwise: Any, images: list[Image.Image]):
    with pytest.raises(UsageError, match="against a reference image"):
        pairwise.compare(PROMPT, images[0], ())


def test_a_pointwise_reward_stands_above_the_mean_of_its_references(new_model: NewModel, images: list[Image.Image]):
    model = new_model("pointwise")
    alone = [model.judge([JudgementRequest(PROMPT, image)])[0].reward or 0.0 for image in images[:3]]
    reward = model.compare(PROMPT, images[0], (images[1], images[2])).reward
    assert reward == pytest.approx(alone[0] - (alone[1] + alone[2]) / 2, abs=1e-5)


@pytest.mark.parametrize("kind", ["pointwise", "scalar"])
def test_only_a_pairwise_model_shows_references_together(new_model: NewModel, images: list[Image.Image], kind: Any):
    request = JudgementRequest(PROMPT, images[0], (images[1], images[2]))
    with pytest.raises(UsageError, match="only a pairwise model shows several"):
        new_model(kind).judge([request], reference_mode="together")


@pytest.mark.parametrize("mode", ["one_by_one", "together"])
def test_the_reward_of_pixels_with_several_references_is_that_of_the_images(
    pairwise: Any, images: list[Image.Image], mode: Any
):
    squares = [image.resize((32, 32)) for image in images[:3]]
    stacked = torch.stack([_pixels(image) for image in squares])
    rewards = pairwise.reward(stacked[:1], [PROMPT], stacked[None, 1:], reference_mode=mode)
    judged = pairwise.judge([JudgementRequest(PROMPT, squares[0], tuple(squares[1:]))], reference_mode=mode)
    # The two routes differ by rounding to 8 bits only.
    assert rewards.tolist() == pytest.approx([judged[0].reward], abs=1e-3)


@pytest.mark.parametrize("mode", ["one_by_one", "together"])
def test_the_gradient_reaches_the_candidate_and_every_reference(pairwise: Any, pixels: torch.Tensor, mode: Any):
    candidate, references = pixels[:1].requires_grad_(True), pixels[None, 1:].detach().requires_grad_(True)
    pairwise.reward(candidate, [PROMPT], references, reference_mode=mode).sum().backward()
    assert candidate.grad is not None
    assert references.grad is not None
    assert (references.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()


def test_pixels_keep_to_their_own_references(pairwise: Any, pixels: torch.Tensor):
    candidates = pixels[:1].repeat(2, 1, 1, 1)
    references = torch.stack([pixels[1:], pixels[[2, 0]]])
    both = pairwise.reward(candidates, [PROMPT, "a dog"], references)
    alone = [
        pairwise.reward(pixels[:1], [prompt], own[None])
        for prompt, own in zip([PROMPT, "a dog"], references, strict=True)
    ]
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-5, rtol=0)


def test_clips_may_have_several_reference_clips(pairwise: Any, pixels: torch.Tensor):
    clip = pixels[:2][None]  # (1, frames, 3, height, width)
    references = torch.stack([clip, clip.flip(1)], dim=1)
    mean = 0.5 * (pairwise.reward(clip, [PROMPT], clip) + pairwise.reward(clip, [PROMPT], clip.flip(1)))
    torch.testing.assert_close(pairwise.reward(clip, [PROMPT], references), mean, atol=1e-5, rtol=0)


def test_a_source_changes_what_is_asked(pairwise: Any, images: list[Image.Image]):
    plain = pairwise.compare(PROMPT, images[0], images[1])
    sources = [pairwise.compare(PROMPT, images[0], images[1], source_media=source) for source in images[2:4]]
    assert len({plain.reward, *(one.reward for one in sources)}) == 3


def test_two_orders_with_a_source_are_antisymmetric(pairwise: Any, images: list[Image.Image]):
    one = pairwise.compare(PROMPT, images[0], images[1], source_media=images[2])
    other = pairwise.compare(PROMPT, images[1], images[0], source_media=images[2])
    assert one.reward == pytest.approx(-other.reward, abs=1e-6)


def test_an_unreadable_source_fails_the_judgement(pairwise: Any, images: list[Image.Image], tmp_path: Path):
    judgement = pairwise.compare(PROMPT, images[0], images[1], source_media=tmp_path / "missing.png")
    assert judgement.status is Status.UNREADABLE_MEDIA


@pytest.mark.parametrize("kind", ["pairwise", "pointwise", "scalar"])
def test_what_is_learned_with_a_source_is_what_is_judged(new_model: NewModel, comparisons: list[Comparison], kind: Any):
    model, source = new_model(kind), comparisons[3].second
    edits = [replace(one, source_media=source) for one in comparisons[:2]]
    log_odds = model.comparison_loss(model.prepare_comparisons(edits), LossSettings()).log_odds
    requests = [JudgementRequest(one.prompt, one.second, one.first, source_media=source) for one in edits]
    assert log_odds.tolist() == pytest.approx([one.reward for one in model.judge(requests, "one")], abs=1e-5)


def test_what_is_learned_from_reference_sets_is_what_is_judged_together(pairwise: Any, comparisons: list[Comparison]):
    third = comparisons[2].second
    one = replace(comparisons[0], beside_first=(third,), choice="second")
    log_odds = pairwise.comparison_loss(pairwise.prepare_comparisons([one, one.swapped()]), LossSettings()).log_odds
    request = JudgementRequest(one.prompt, one.second, (one.first, third))
    judged = pairwise.judge([request], reference_mode="together")[0]
    assert judged.reward == pytest.approx(0.5 * (log_odds[0] - log_odds[1]).item(), abs=1e-5)


def test_a_few_steps_teach_which_candidate_beats_its_references(pairwise: Any, comparisons: list[Comparison]):
    best, others = comparisons[0].first, [comparisons[place].second for place in (0, 2)]
    wins = Comparison("w", "a", others[0], best, choice="second", beside_first=(others[1],))
    loses = Comparison("l", "a", best, others[0], second_preference=0.0, beside_first=(others[1],))
    prepared = pairwise.prepare_comparisons([wins, wins.swapped(), loses, loses.swapped()])
    optimizer = torch.optim.AdamW(pairwise.module.parameters(), lr=3e-3)
    for _ in range(35):
        optimizer.zero_grad()
        pairwise.comparison_loss(prepared, LossSettings()).loss.mean().backward()
        optimizer.step()
    requests = [JudgementRequest("a", one.second, (one.first, others[1])) for one in (wins, loses)]
    winner, loser = pairwise.judge(requests, reference_mode="together")
    assert winner.score > 0.8
    assert loser.score < 0.2


def test_a_pointwise_model_does_not_learn_from_reference_sets(new_model: NewModel, comparisons: list[Comparison]):
    one = replace(comparisons[0], beside_first=(comparisons[2].second,))
    with pytest.raises(UsageError, match="only a pairwise model shows several"):
        new_model("pointwise").prepare_comparisons([one])


def _pixels(image: Image.Image) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.reshape(image.height, image.width, 3).permute(2, 0, 1) / 255
