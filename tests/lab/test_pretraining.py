from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rewarddance.core.seeding import numpy_rng
from rewarddance.lab.base_models import SHAPES, new_base, new_tokenizer, save_base
from rewarddance.lab.pretraining import (
    PretrainingSettings,
    TeachingHeads,
    pretrain,
    pretraining_losses,
)
from rewarddance.lab.pretraining_batches import collate_items
from rewarddance.lab.pretraining_questions import corpus, draw_item
from rewarddance.lab.world import UNSEEN_FAULTS, to_uint8
from rewarddance.rewards.backbones.loading import load_backbone
from tests.lab.killed_courses import killed_and_resumed


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return new_tokenizer(corpus(numpy_rng(0, "corpus"), items=40))


def test_sizes_are_about_a_quarter_one_and_three_million(tokenizer) -> None:  # type: ignore[no-untyped-def]
    counts = {size: sum(p.numel() for p in new_base(size, tokenizer, 0).parameters()) for size in SHAPES}
    assert 0.2e6 < counts["nano"] < 0.35e6
    assert 0.8e6 < counts["micro"] < 1.5e6
    assert 2.4e6 < counts["small"] < 3.6e6


def test_preference_and_unseen_faults_are_kept_out_of_the_lessons() -> None:
    items = [draw_item(np.random.default_rng(seed)) for seed in range(150)]
    questions = {lesson.question for item in items for lesson in item.lessons}
    assert not any("better than" in question and "show the prompt" not in question for question in questions)
    names = {fault.name for item in items for candidate in item.candidates for fault in candidate.degradations}
    assert not names & set(UNSEEN_FAULTS)


def test_lessons_do_not_see_each_other(tokenizer) -> None:  # type: ignore[no-untyped-def]
    item = draw_item(np.random.default_rng(3))
    model = new_base("nano", tokenizer, 0)
    heads = TeachingHeads(64)
    whole = pretraining_losses(model, heads, collate_items([item], tokenizer)).logits
    last = type(item)(item.prompt, item.candidates, item.lessons[-1:])
    alone = pretraining_losses(model, heads, collate_items([last], tokenizer)).logits
    torch.testing.assert_close(whole[-len(alone) :], alone, rtol=1e-4, atol=1e-4)


def test_a_lesson_is_laid_out_as_the_backbone_asks_it(tmp_path: Path, tokenizer) -> None:  # type: ignore[no-untyped-def]
    item = draw_item(np.random.default_rng(3))
    model = new_base("nano", tokenizer, 0).eval()
    save_base(model, tokenizer, tmp_path, {})
    backbone = load_backbone(tmp_path)
    pictures = [
        backbone.picture_from_image(Image.fromarray(to_uint8(candidate.pixels))) for candidate in item.candidates
    ]
    parts = [f"Prompt: {item.prompt.text}\nImage 1: ", pictures[0], "\nImage 2: ", pictures[1]]
    question = backbone.encode([*parts, f"\n{item.lessons[0].question}"])
    batch = collate_items([item], tokenizer)
    first = (batch.blocks[0] == 0) | (batch.blocks[0] == 1)
    asked = batch.token_ids[0][first].tolist()
    assert tuple(asked[: len(question.token_ids)]) == question.token_ids
    with torch.no_grad():
        hidden = backbone.answer_hidden(backbone.collate([question]))
        logits = pretraining_losses(model, TeachingHeads(64), batch).logits
    torch.testing.assert_close(hidden @ model.lm_head.weight.T, logits[:1], rtol=1e-3, atol=1e-3)


def test_pretraining_resumes_bit_identically(tmp_path: Path) -> None:
    settings = PretrainingSettings("nano", vision_items=8, items=24, batch_items=4, warmup_steps=2, save_every=3)
    pretrain(settings, tmp_path / "whole")
    resumed = killed_and_resumed(partial(pretrain, settings), tmp_path / "killed")
    name = "model.safetensors"
    assert (resumed / name).read_bytes() == (tmp_path / "whole" / "model" / name).read_bytes()
