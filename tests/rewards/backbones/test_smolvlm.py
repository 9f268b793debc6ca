import numpy as np
from transformers.models.smolvlm.image_processing_pil_smolvlm import get_resize_output_image_size

from rewarddance.rewards.backbones.smolvlm import longest_side_size, tiled_size


def test_sizes_equal_transformers_for_every_shape():
    for height in (1, 31, 64, 333, 1080):
        for width in (1, 50, 64, 99, 4000):
            theirs = get_resize_output_image_size(np.empty((3, height, width)), 1456)
            assert longest_side_size(height, width, 1456) == theirs


def test_the_longer_side_is_at_most_4096_pixels():
    assert longest_side_size(100, 200, 8000) == (2048, 4096)


def test_a_tiled_size_is_a_multiple_of_the_tile_that_holds_the_image():
    # 70 -> 96 wide; the height follows the ratio, 96 / (70 / 20) = 27 -> 32.
    assert tiled_size(20, 70, 32) == (32, 96)


def test_rows_of_tiles_are_marked_and_the_global_view_stands_last(backbone_of, draw_image):
    backbone = backbone_of("smolvlm")
    picture = backbone.picture_from_image(draw_image(20, 64))
    four = "<image>" * 4
    assert picture.grid == (1, 2)
    assert backbone.layout.image_text(picture) == (
        f"<fake_token_around_image><row_1_col_1>{four}<fake_token_around_image><row_1_col_2>{four}\n\n"
        f"<fake_token_around_image><global-img>{four}<fake_token_around_image>"
    )
