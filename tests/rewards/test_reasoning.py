"""Generation on random weights: what is written means nothing, but everything about it can be checked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from rewarddance.rewards.backbones.protocol import EncodedQuestion
from rewarddance.rewards.loading import load_reward_model
from rewarddance.rewards.paradigm import Paradigm, hidden_of
from rewarddance.rewards.reasoning import ReasonedAnswer, reason, room_for_question
from rewarddance.rewards.reasoning_settings import ReasoningSettings
from rewarddance.rewards.replies import text_ids
from tests.tiny_models import FAMILIES, save_tiny_model

LETTERS = "abcdefgh"


class WritesLines(nn.Module):
    """A vocabulary head that likes a few letters and the end of a line, so that rationales come to an end."""

    def __init__(self, head: nn.Linear, liked: Sequence[int], ending: int) -> None:
        super().__init__()
        self.head = head
        self.weight = head.weight
        self.bias = None
        self.liked = torch.tensor([*liked, ending])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = 0.5 * self.head(hidden)
        return logits.index_add(1, self.liked, torch.full((len(logits), len(self.liked)), 25.0))


def paradigm_of(family: str, folder: Path) -> Paradigm:
    model: Any = load_reward_model(save_tiny_model(family, folder), device="cpu", kind="pairwise")
    tokenizer = model.backbone.tokenizer
    liked = [text_ids(tokenizer, letter)[0] for letter in LETTERS]
    head = WritesLines(model.backbone.model.get_output_embeddings(), liked, text_ids(tokenizer, "\n")[0])
    model.backbone.model.set_output_embeddings(head)
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def paradigm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Paradigm:
    return paradigm_of(request.param, tmp_path_factory.mktemp("reasoning"))


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Paradigm:
    return paradigm_of("internvl", tmp_path_factory.mktemp("reasoning"))


def questions(paradigm: Paradigm, images: list[Image.Image]) -> list[EncodedQuestion]:
    pictures = [paradigm.backbone.picture_from_image(image) for image in images[:4]]
    asked = [
        ["Prompt: a red square\nImage 1: ", pictures[0], "\nImage 2: ", pictures[1], "\nIs image 2 better?"],
        ["Image 1: ", pictures[2], "\nImage 2: ", pictures[3], "\nIs image 2 better than image 1? Reasons."],
        ["Image 1: ", pictures[1], "\nImage 2: ", pictures[0], "\nBetter?"],
    ]
    return [paradigm.backbone.encode(parts) for parts in asked]


def log_odds_at_once(paradigm: Paradigm, question: EncodedQuestion, said: Sequence[int]) -> float:
    whole = replace(question, token_ids=(*question.token_ids, *said))
    with torch.no_grad():
        return paradigm.read(hidden_of(paradigm.backbone, [whole])).item()


def texts(answers: Sequence[ReasonedAnswer]) -> list[list[str | None]]:
    return [[one.text for one in answer.samples] for answer in answers]


DRAWN = ReasoningSettings(samples=3, temperature=1.0, max_tokens=30, seed=5)


def test_the_answer_after_a_rationale_is_that_of_reading_question_and_rationale_at_once(paradigm, images) -> None:
    asked = questions(paradigm, images)
    tokenizer = paradigm.backbone.tokenizer
    compared = 0
    for question, answer in zip(asked, reason(paradigm, asked, DRAWN), strict=True):
        for sample in answer.samples:
            if sample.text is None:
                continue
            # Single letters are what was written, so that the text tells the tokens.
            written = [token for letter in sample.text for token in text_ids(tokenizer, letter)]
            if set(sample.text) <= set(LETTERS):
                said = [*written, *text_ids(tokenizer, "\nAnswer:")]
                assert sample.log_odds == pytest.approx(log_odds_at_once(paradigm, question, said), abs=1e-4)
                compared += 1
    assert compared >= 3


def test_what_is_written_does_not_depend_on_the_rest_of_the_batch(paradigm, images) -> None:
    asked = questions(paradigm, images)
    together = reason(paradigm, asked, DRAWN)
    alone = [reason(paradigm, [question], DRAWN)[0] for question in asked]
    assert texts(together) == texts(alone)
    odds = [[one.log_odds for one in answer.samples] for answer in together]
    for own, answer in zip(odds, alone, strict=True):
        assert own == pytest.approx([one.log_odds for one in answer.samples], abs=1e-4)


def test_samples_of_a_question_differ_and_a_seed_repeats_them(internvl, images) -> None:
    asked = questions(internvl, images)
    once, again = reason(internvl, asked, DRAWN), reason(internvl, asked, DRAWN)
    assert texts(once) == texts(again)
    assert len(set(texts(once)[0])) > 1
    assert texts(reason(internvl, asked, replace(DRAWN, seed=6))) != texts(once)


def test_a_temperature_of_zero_writes_the_most_probable_tokens(internvl, images) -> None:
    asked = questions(internvl, images)
    greedy = ReasoningSettings(temperature=0.0, max_tokens=30)
    near = ReasoningSettings(temperature=1e-4, max_tokens=30, seed=3)
    assert texts(reason(internvl, asked, greedy)) == texts(reason(internvl, asked, near))


def test_a_rationale_that_does_not_end_has_no_answer_and_is_counted(internvl, images) -> None:
    asked = questions(internvl, images)
    short = reason(internvl, asked, replace(DRAWN, max_tokens=1))
    samples = [one for answer in short for one in answer.samples]
    # One token either ends the rationale before it began or does not end it.
    assert all((one.text, one.log_odds, one.leaked_mass) == (None, None, None) for one in samples)
    assert [answer.cost.unfinished_rationales for answer in short] == [3, 3, 3]


def test_an_answer_given_first_is_that_of_one_token_whatever_is_written_behind_it(paradigm, images) -> None:
    asked = questions(paradigm, images)
    answers = reason(paradigm, asked, ReasoningSettings("answer_first", max_tokens=30, temperature=1.0))
    assert [answer.samples[0].log_odds for answer in answers] == pytest.approx(
        [log_odds_at_once(paradigm, question, ()) for question in asked], abs=1e-4
    )
    assert any(answer.samples[0].text for answer in answers)


def test_the_cost_counts_what_was_read_and_written(internvl, images) -> None:
    (question,) = questions(internvl, images)[:1]
    (answer,) = reason(internvl, [question], DRAWN)
    lead = text_ids(internvl.backbone.tokenizer, "\nAnswer:")
    assert answer.cost.read_tokens == len(question.token_ids) + 3 * len(lead)
    # Every letter is one token, and so is the end of each line.
    ended = [one.text for one in answer.samples if one.text is not None]
    assert answer.cost.generated_tokens >= sum(len(text) > 0 for text in ended) + len(ended)
    assert answer.cost.questions == 1


def test_no_special_token_is_ever_written(internvl, images) -> None:
    class WantsImages(nn.Module):
        def __init__(self, head: Any) -> None:
            super().__init__()
            self.head = head
            self.weight = head.weight

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            logits = self.head(hidden)
            image = internvl.backbone.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
            return logits.index_fill(1, torch.tensor([image]), 1e4)

    before = internvl.backbone.model.get_output_embeddings()
    internvl.backbone.model.set_output_embeddings(WantsImages(before))
    answers = reason(internvl, questions(internvl, images), DRAWN)
    internvl.backbone.model.set_output_embeddings(before)
    assert not any("IMG" in (text or "") for own in texts(answers) for text in own)
    assert any(text for own in texts(answers) for text in own)


def test_a_question_needs_room_for_its_rationale(internvl) -> None:
    lead = len(text_ids(internvl.backbone.tokenizer, "\nAnswer:"))
    assert room_for_question(internvl, DRAWN) == internvl.backbone.max_tokens - 30 - lead - 1
