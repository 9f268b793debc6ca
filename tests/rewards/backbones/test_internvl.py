import pytest
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from rewarddance.core.errors import ModelError
from rewarddance.rewards.backbones.internvl import internvl_layout, tile_grid


def test_tile_grids_equal_transformers_for_every_shape():
    for height in (1, 100, 448, 500, 896, 1344):
        for width in (3, 448, 600, 897, 2000):
            columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), 1, 12)
            assert tile_grid(height, width, 448, 1, 12) == (rows, columns)


def test_tiles_that_are_not_square_are_refused(backbone_of):
    config = backbone_of("internvl").model.config
    with pytest.raises(ModelError, match="square"):
        internvl_layout(config, {"size": {"height": 32, "width": 64}})


def test_without_tiling_an_image_is_one_tile(backbone_of, draw_image):
    picture = backbone_of("internvl").picture_from_image(draw_image(300, 20))
    assert picture.pixel_values.shape == (1, 3, 32, 32)
    assert (picture.tokens, picture.grid) == (4, (1, 1))
