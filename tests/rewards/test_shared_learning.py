"""Learning from questions whose common beginnings are read once, against the same questions padded."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rewarddance.core.types import Comparison
from rewarddance.rewards.backbones.loading import load_backbone
from rewarddance.rewards.backbones.protocol import EncodedQuestion, QuestionBatch
from rewarddance.rewards.backbones.vision_language import VisionLanguageBackbone
from rewarddance.rewards.protocol import LossSettings
from tests.rewards.conftest import NewModel
from tests.rewards.test_engine import PROMPTS, BackboneOf, _images, _question, backbone_of
from tests.tiny_models import FAMILIES, save_tiny_model

__all__ = ["backbone_of"]  # the fixture


def _asked(backbone: VisionLanguageBackbone, mode: str = "causal") -> list[EncodedQuestion]:
    """Questions of two prompts by the same criteria, one of them twice."""
    backbone.attention = mode  # type: ignore[assignment]
    one, two, three, four = (backbone.picture_from_image(image) for image in _images(4, seed=5))
    shown = [(one, two), (three, four), (two, three), (four, one)]
    questions = [_question(backbone, prompt, *pictures) for prompt in PROMPTS for pictures in shown]
    return [*questions, questions[0]]


def _gradient(backbone: VisionLanguageBackbone, batch: QuestionBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    backbone.model.zero_grad()
    hidden = backbone.answer_hidden(batch)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(6))
    (hidden.float() * weights).sum().backward()
    named = backbone.model.named_parameters()
    return hidden.detach(), {name: one.grad.clone() for name, one in named if one.grad is not None}


@pytest.mark.parametrize("mode", ["causal", "blocks"])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_and_gradients_of_the_weights_equal_those_of_padded_questions(
    family: str, mode: str, backbone_of: BackboneOf
):
    backbone = backbone_of(family)
    questions = _asked(backbone, mode)
    shared = backbone.collate_to_learn(questions)
    assert shared.plan is not None
    found, slopes = _gradient(backbone, shared)
    expected, padded_slopes = _gradient(backbone, backbone.collate(questions))
    backbone.attention = "causal"
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert slopes.keys() == padded_slopes.keys()
    assert any("vis" in name for name in slopes)  # the vision tower learns, too
    for name, slope in padded_slopes.items():
        assert (slopes[name] - slope).norm() <= 1e-3 * slope.norm() + 1e-6, name


def test_questions_with_little_in_common_are_padded(backbone_of: BackboneOf):
    backbone = backbone_of("internvl")
    pictures = [backbone.picture_from_image(image) for image in _images(4)]
    questions = [backbone.encode([prompt, *pictures]) for prompt in PROMPTS]
    assert backbone.collate_to_learn(questions).plan is None


def test_criteria_are_read_once_in_a_batch(backbone_of: BackboneOf):
    backbone = backbone_of("internvl")
    questions = _asked(backbone)
    plan = backbone.collate_to_learn(questions).plan
    assert plan is not None
    firsts = [one for one in plan.passages if not one.sees]
    assert len(firsts) == 1
    # Eight questions that differ, of one length in a batch of this family or a little less.
    padded = sum(len(question.token_ids) for question in questions[:-1])
    assert padded - plan.tokens >= 7 * len(firsts[0])


@torch.no_grad()
def _moved(backbone: VisionLanguageBackbone) -> None:
    for parameter in backbone.model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))


def test_nothing_read_with_earlier_weights_is_used_again(tmp_path: Path):
    backbone = load_backbone(save_tiny_model("internvl", tmp_path))
    questions = _asked(backbone)
    shared = backbone.collate_to_learn(questions)
    before = backbone.answer_hidden(shared)
    _moved(backbone)
    after = backbone.answer_hidden(shared)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(after, backbone.answer_hidden(backbone.collate(questions)), atol=1e-4, rtol=0)
    assert backbone.engine.states.nbytes == backbone.engine.features.nbytes == 0


def test_how_much_memory_is_free_changes_no_bit(backbone_of: BackboneOf, monkeypatch: Any):
    backbone = backbone_of("internvl")
    shared = backbone.collate_to_learn(_asked(backbone))
    _, plenty = _gradient(backbone, shared)
    monkeypatch.setattr(backbone.engine, "max_tokens", 24)
    _, scarce = _gradient(backbone, shared)
    assert all(torch.equal(scarce[name], slope) for name, slope in plenty.items())


def test_the_precision_of_the_run_holds_here_too(backbone_of: BackboneOf):
    backbone = backbone_of("internvl")
    questions = _asked(backbone)
    with torch.autocast("cpu", torch.bfloat16):
        shared, _ = _gradient(backbone, backbone.collate_to_learn(questions))
        padded, _ = _gradient(backbone, backbone.collate(questions))
    torch.testing.assert_close(shared.float(), padded.float(), atol=0.15, rtol=0)


@pytest.mark.parametrize("kind", ["pairwise", "pointwise", "scalar"])
def test_a_loss_is_that_of_the_comparisons_one_by_one(new_model: NewModel, comparisons: list[Comparison], kind: Any):
    model = new_model(kind)
    together = model.prepare_comparisons(comparisons)
    assert together.questions.plan is not None
    losses = model.comparison_loss(together, LossSettings()).loss
    alone = [model.comparison_loss(model.prepare_comparisons([one]), LossSettings()).loss for one in comparisons]
    torch.testing.assert_close(losses, torch.cat(alone), atol=1e-4, rtol=0)
