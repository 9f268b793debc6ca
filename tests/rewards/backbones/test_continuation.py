from dataclasses import replace

import pytest
import torch
from PIL import Image

from rewarddance.rewards.backbones.loading import load_backbone
from rewarddance.rewards.backbones.protocol import EncodedQuestion
from rewarddance.rewards.backbones.vision_language import VisionLanguageBackbone
from tests.tiny_models import FAMILIES, save_tiny_model

EVERYONE = torch.tensor([True, True])


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageBackbone:
    return load_backbone(save_tiny_model(request.param, tmp_path_factory.mktemp("base")))


def questions(backbone: VisionLanguageBackbone, images: list[Image.Image]) -> list[EncodedQuestion]:
    first, second = (backbone.picture_from_image(image) for image in images[:2])
    return [
        backbone.encode(["Image 1: ", first, "\nImage 2: ", second, "\nIs image 2 better?"]),
        backbone.encode(["Image: ", second, "\nIs this a good image for the prompt? Answer yes or no."]),
    ]


def read_at_once(backbone: VisionLanguageBackbone, question: EncodedQuestion, *tokens: int) -> torch.Tensor:
    whole = replace(question, token_ids=(*question.token_ids, *tokens))
    return backbone.answer_hidden(backbone.collate([whole]))[0]


@torch.no_grad()
def test_tokens_fed_one_by_one_give_what_reading_the_whole_gives(backbone, images) -> None:
    asked = questions(backbone, images)
    rows = backbone.begin(backbone.collate(asked))
    for token in (40, 41, 42):
        rows.feed(torch.tensor([[token], [token + 5]]), EVERYONE)
    torch.testing.assert_close(rows.hidden[0], read_at_once(backbone, asked[0], 40, 41, 42), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.hidden[1], read_at_once(backbone, asked[1], 45, 46, 47), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_row_that_waited_goes_on_where_it_stopped(backbone, images) -> None:
    asked = questions(backbone, images)
    rows = backbone.begin(backbone.collate(asked))
    rows.feed(torch.tensor([[40], [45]]), EVERYONE)
    waiting = rows.hidden[1].clone()
    rows.feed(torch.tensor([[41], [0]]), torch.tensor([True, False]))
    assert torch.equal(rows.hidden[1], waiting)
    rows.feed(torch.tensor([[50, 51], [50, 51]]), EVERYONE)
    torch.testing.assert_close(rows.hidden[0], read_at_once(backbone, asked[0], 40, 41, 50, 51), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.hidden[1], read_at_once(backbone, asked[1], 45, 50, 51), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_row_that_is_taken_out_and_those_that_stay_go_on_as_they_would_together(backbone, images) -> None:
    asked = questions(backbone, images)
    rows = backbone.begin(backbone.collate(asked))
    rows.feed(torch.tensor([[40], [45]]), EVERYONE)
    apart = rows.split_off(torch.tensor([True, False]))
    for one, token in ((apart, 41), (rows, 46)):
        one.feed(torch.tensor([[token]]), torch.tensor([True]))
    torch.testing.assert_close(apart.hidden[0], read_at_once(backbone, asked[0], 40, 41), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.hidden[0], read_at_once(backbone, asked[1], 45, 46), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_repeated_row_is_continued_in_different_ways(backbone, images) -> None:
    asked = questions(backbone, images)
    rows = backbone.begin(backbone.collate(asked))
    rows.repeat(2)
    rows.feed(torch.tensor([[40], [41], [42], [43]]), torch.tensor([True] * 4))
    for row, (question, token) in enumerate([(0, 40), (0, 41), (1, 42), (1, 43)]):
        torch.testing.assert_close(rows.hidden[row], read_at_once(backbone, asked[question], token), atol=1e-5, rtol=0)


def test_a_question_that_stands_twice_is_refused(backbone, images) -> None:
    asked = questions(backbone, images)
    with pytest.raises(ValueError, match="twice"):
        backbone.begin(backbone.collate([asked[0], asked[0]]))
