import pytest
import torch

from rewarddance.rewards.backbones.qwen_positions import multimodal_positions

IMAGE = 9


def test_text_advances_all_axes_and_an_image_takes_rows_and_columns():
    # Two words, an image of 4x6 patches merged to 2x3 tokens, one word: the word follows the longer side, 2 + 3 = 5.
    positions = multimodal_positions([1, 2, *[IMAGE] * 6, 3], [(1, 4, 6)], IMAGE, merge=2)
    expected = [[0, 1, 2, 2, 2, 2, 2, 2, 5], [0, 1, 2, 2, 2, 3, 3, 3, 5], [0, 1, 2, 3, 4, 2, 3, 4, 5]]
    assert positions.tolist() == expected


def test_text_alone_counts():
    assert multimodal_positions([1, 2, 3], [], IMAGE, merge=2).tolist() == [[0, 1, 2]] * 3


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_positions_of_a_padded_batch_equal_the_models_own(family, backbone_of, draw_image):
    backbone = backbone_of(family)
    wide, tall = (backbone.picture_from_image(draw_image(*size)) for size in ((40, 90), (90, 40)))
    questions = [
        backbone.encode(["a", wide, "b", tall, "which is better?"]),
        backbone.encode([tall, "short"]),
        backbone.encode([wide, wide, wide, "long", "er"]),
    ]
    inputs = backbone.collate(questions).inputs
    shown = torch.tensor([picture.grid for question in questions for picture in question.pictures])
    theirs, _ = backbone.model.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=(inputs["input_ids"] == backbone.model.config.image_token_id).int(),
        image_grid_thw=shown,
        attention_mask=inputs["attention_mask"],
    )
    assert torch.equal(inputs["position_ids"], theirs)
