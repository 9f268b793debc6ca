import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from rewarddance.core.errors import MediaError
from rewarddance.rewards.backbones.qwen_patches import bounded_size, cut_patches


@pytest.mark.parametrize("bounds", [(56 * 56, 28 * 28 * 1280), (32 * 32, 64 * 64), (256 * 256, 300 * 300)])
def test_sizes_equal_transformers_smart_resize(bounds):
    for height in (1, 7, 14, 42, 70, 333, 1080):
        for width in (7, 28, 70, 98, 1920):
            if max(height, width) <= 200 * min(height, width):
                assert bounded_size(height, width, 28, *bounds) == smart_resize(height, width, 28, *bounds)


def test_a_needle_is_refused():
    with pytest.raises(MediaError, match="too narrow"):
        bounded_size(1, 201, 28, 1, 10**6)


def test_patches_that_merge_stand_together():
    # A 4x4 image of patches of one pixel, merged two by two: the top left square first.
    pixels = torch.arange(16.0).reshape(1, 4, 4).expand(3, 4, 4)
    patches = cut_patches(pixels, patch=1, merge=2, frames=2)
    assert patches.shape == (16, 6)
    assert patches[:, 0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
