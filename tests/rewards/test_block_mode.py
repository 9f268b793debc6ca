"""Block mode: what each token reads, and that it is trained for, stored, and refused otherwise."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rewarddance.core.errors import UsageError
from rewarddance.core.types import Comparison, JudgementRequest
from rewarddance.rewards.backbones.blocks import block_mask, block_spans
from rewarddance.rewards.backbones.loading import load_backbone
from rewarddance.rewards.loading import load_reward_model, new_reward_model
from rewarddance.rewards.protocol import LossSettings
from tests.rewards.test_engine import PROMPTS, _Counter, _engine, _images, _mixed, _one_by_one, _question
from tests.tiny_models import FAMILIES, save_tiny_model


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    saved: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in saved:
            saved[family] = save_tiny_model(family, tmp_path_factory.mktemp("blocks") / family)
        return saved[family]

    return folder


@pytest.fixture
def in_blocks(folder_of: Any) -> Any:
    def backbone(family: str) -> Any:
        loaded = load_backbone(folder_of(family))
        loaded.attention = "blocks"
        return loaded

    return backbone


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_answers_as_the_masked_batch_that_is_trained_on(family: str, in_blocks: Any):
    backbone = in_blocks(family)
    questions = _mixed(backbone)
    with torch.no_grad():
        batch = backbone.answer_hidden(backbone.collate(questions))
    torch.testing.assert_close(_engine(backbone, questions), batch, atol=1e-4, rtol=0)
    torch.testing.assert_close(_one_by_one(backbone, questions), batch, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_medium_reads_nothing_of_another(family: str, in_blocks: Any):
    backbone = in_blocks(family)
    first, second, other = (backbone.picture_from_image(image) for image in _images(3))
    image_token = backbone.tokenizer.convert_tokens_to_ids(backbone.layout.placeholder)
    states = []
    for one in (first, other):
        question = _question(backbone, PROMPTS[0], one, second)
        spans = block_spans(question, torch.arange(len(question.token_ids))[None], image_token)
        with torch.no_grad():
            hidden = backbone.last_hidden(backbone.collate([question]), len(question.token_ids))[0]
        states.append([hidden[span.start : span.stop] for span in spans])
    for number, is_equal in enumerate((True, False, True, False)):  # head, first, second, rest
        one, two = states[0][number], states[1][number]
        assert (one.shape == two.shape and torch.allclose(one, two, atol=1e-5)) is is_equal


def test_a_question_with_one_image_is_the_same_in_both_modes(in_blocks: Any):
    backbone = in_blocks("qwen3_vl")
    question = _question(backbone, PROMPTS[0], backbone.picture_from_image(_images(1)[0]))
    blocks = _engine(backbone, [question])
    backbone.attention = "causal"
    torch.testing.assert_close(blocks, _engine(backbone, [question]), atol=1e-5, rtol=0)


def test_two_images_are_answered_otherwise_than_in_causal_mode(in_blocks: Any):
    backbone = in_blocks("internvl")
    one, two = (backbone.picture_from_image(image) for image in _images(2))
    question = _question(backbone, PROMPTS[0], one, two)
    blocks = _engine(backbone, [question])
    backbone.attention = "causal"
    assert (blocks - _engine(backbone, [question])).abs().max() > 1e-3


def test_a_tournament_of_n_reads_each_image_once_a_slot(in_blocks: Any, monkeypatch: Any):
    backbone = in_blocks("internvl")
    pictures = [backbone.picture_from_image(image.resize((32, 32))) for image in _images(5)]
    questions = [_question(backbone, PROMPTS[0], one, other) for one, other in permutations(pictures, 2)]
    positions = torch.arange(len(questions[0].token_ids))[None]
    spans = block_spans(questions[0], positions, backbone.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"))
    head, first, second, rest = (span.stop - span.start for span in spans)
    counter = _Counter(backbone, monkeypatch)
    _engine(backbone, questions)
    assert counter.pictures == 5
    assert counter.tokens == head + 5 * first + 5 * second + 20 * rest


def test_the_second_slot_is_placed_as_if_the_first_held_its_own_image(in_blocks: Any):
    backbone = in_blocks("qwen2_5_vl")
    image_token = backbone.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    wide, square, tall = (
        backbone.picture_from_image(Image.new("RGB", size)) for size in ((64, 32), (32, 32), (32, 64))
    )
    places = []
    for first in (wide, square, tall):
        question = _question(backbone, PROMPTS[0], first, square)
        mask = torch.ones(1, len(question.token_ids), dtype=torch.long)
        spans = block_spans(question, backbone.layout.position_ids([question], mask)[:, 0], image_token)
        places.append(spans[2].positions.tolist())
    assert places[0] == places[1] == places[2]


def test_a_mask_lets_blocks_read_the_head_and_the_rest_read_all(in_blocks: Any):
    backbone = in_blocks("internvl")
    one, two = (backbone.picture_from_image(image) for image in _images(2))
    question = _question(backbone, PROMPTS[0], one, two)
    spans = block_spans(
        question,
        torch.arange(len(question.token_ids))[None],
        backbone.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    mask = block_mask(spans)
    head, first, second, rest = (slice(span.start, span.stop) for span in spans)
    assert mask[first, head].all()
    assert mask[second, head].all()
    assert not mask[second, first].any()
    assert mask[rest, : rest.start].all()
    assert not mask.triu(1).any()


def test_the_mode_is_stored_with_the_model_and_used_again(folder_of: Any, images: list[Image.Image], tmp_path: Path):
    model = new_reward_model(folder_of("internvl"), "pairwise", instruction="brief", device="cpu", attention="blocks")
    request = JudgementRequest(PROMPTS[0], images[1], images[0])
    model.save(tmp_path)
    loaded = load_reward_model(tmp_path, device="cpu")
    assert loaded.backbone.attention == "blocks"
    assert loaded.judge([request])[0].reward == pytest.approx(model.judge([request])[0].reward, abs=1e-5)


@pytest.mark.parametrize(("trained", "wanted"), [("causal", "blocks"), ("blocks", "causal")])
def test_a_model_that_was_trained_in_the_other_mode_is_refused(
    trained: Any, wanted: Any, folder_of: Any, tmp_path: Path
):
    new_reward_model(folder_of("internvl"), "pairwise", device="cpu", attention=trained).save(tmp_path)
    with pytest.raises(UsageError, match=f"trained with attention {trained}"):
        load_reward_model(tmp_path, device="cpu", attention=wanted)


def test_a_plain_model_is_refused_in_block_mode(folder_of: Any):
    with pytest.raises(UsageError, match="trained with attention causal"):
        load_reward_model(folder_of("internvl"), device="cpu", attention="blocks")


def test_a_model_learns_in_block_mode(folder_of: Any, comparisons: list[Comparison]):
    model = new_reward_model(folder_of("internvl"), "pairwise", instruction="brief", device="cpu", attention="blocks")
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=3e-3)
    prepared = model.prepare_comparisons(comparisons)
    losses = []
    for _ in range(12):
        loss = model.comparison_loss(prepared, LossSettings()).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_reasons_cannot_be_asked_for_in_block_mode(in_blocks: Any):
    backbone = in_blocks("internvl")
    with pytest.raises(UsageError, match="block mode"):
        backbone.begin(backbone.collate([_question(backbone, PROMPTS[0])]))
