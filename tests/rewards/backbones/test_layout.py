"""Pixels of both routes against the families' own PIL image processors, on even and odd sizes."""

import numpy as np
import pytest
import torch

from tests.rewards.backbones.reference_processors import reference_image_processor
from tests.tiny_models import FAMILIES

SIZES = ((32, 32), (64, 64), (45, 71), (97, 33), (31, 200), (1, 7), (300, 301))
ROUTES = [(family, None) for family in FAMILIES] + [
    ("internvl", 6 * 32 * 32),
    ("smolvlm", 128 * 128),
    ("qwen3_vl", 2**20),
]


def their_pixels(family, folder, layout, image):
    """Flat pixel values of one image from transformers, with our limits written into its config."""
    processor = reference_image_processor(family, folder, **layout.preprocessor())
    values = processor(images=[image], return_tensors="pt")["pixel_values"]
    return values[0] if family == "smolvlm" else values


@pytest.mark.filterwarnings("ignore:The channel dimension is ambiguous")
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("family", "max_pixels"), ROUTES)
def test_the_pil_route_is_bit_equal_to_the_familys_own_processor(
    family, max_pixels, height, width, backbone_of, tiny_model_folder, draw_image
):
    layout = backbone_of(family).layout.with_image_limits(None, max_pixels)
    image = draw_image(height, width)
    ours = layout.picture_from_image(image).pixel_values
    assert torch.equal(ours, their_pixels(family, tiny_model_folder(family), layout, image))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("family", "max_pixels"), ROUTES)
def test_the_tensor_route_differs_by_less_than_one_grey_level_in_the_mean(
    family, max_pixels, height, width, backbone_of, draw_image
):
    layout = backbone_of(family).layout.with_image_limits(None, max_pixels)
    image = draw_image(height, width)
    by_image = layout.picture_from_image(image)
    by_pixels = layout.pictures_from_pixels(torch.from_numpy(np.array(image)[None]).permute(0, 3, 1, 2).float() / 255)[
        0
    ]
    assert (by_pixels.grid, by_pixels.tokens) == (by_image.grid, by_image.tokens)
    # The largest deviation by which a channel was divided turns the difference back into shares of full range.
    difference = (by_pixels.pixel_values - by_image.pixel_values).abs().mean() * max(layout.pixels.std)
    assert difference < 1 / 255
