import pytest

from rewarddance.core.errors import ModelError
from rewarddance.rewards.backbones.chat import ChatFormat


def test_a_template_that_ignores_images_is_refused(backbone_of):
    tokenizer = backbone_of("internvl").tokenizer
    text_only = "{% for message in messages %}{{ message['role'] }}: {{ message['content'][0]['text'] }}{% endfor %}"
    with pytest.raises(ModelError, match="<IMG_CONTEXT>"):
        ChatFormat(tokenizer, text_only, "<IMG_CONTEXT>")


def test_texts_side_by_side_are_tokenised_as_one(backbone_of):
    backbone = backbone_of("internvl")
    assert backbone.encode(["Answer ye", "s"]).token_ids == backbone.encode(["Answer yes"]).token_ids


def test_an_empty_text_adds_nothing(backbone_of):
    backbone = backbone_of("qwen3_vl")
    assert backbone.encode(["", "yes", ""]).token_ids == backbone.encode(["yes"]).token_ids
