import numpy as np
import pytest
import torch
from PIL import Image

from rewarddance.rewards.backbones.resize import PIL_FILTERS, resampling_matrix, resize


@pytest.mark.parametrize("kernel", PIL_FILTERS)
@pytest.mark.parametrize("target", [(16, 16), (31, 90), (45, 20), (7, 200)])
def test_resizing_equals_pillows_float_resize_before_clipping_matters(kernel, target):
    # Pillow resizes 32-bit float images without rounding: only the arithmetic of the filter is compared.
    rng = np.random.default_rng(0)
    channel = rng.uniform(0.3, 0.7, (45, 71)).astype(np.float32)
    theirs = np.asarray(Image.fromarray(channel).resize((target[1], target[0]), PIL_FILTERS[kernel]))
    ours = resize(torch.from_numpy(channel)[None].double(), *target, kernel)[0]
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


def test_the_mean_difference_to_pillows_8_bit_resize_is_below_one_grey_level(draw_image):
    image = draw_image(97, 131)
    theirs = np.asarray(image.resize((40, 52), Image.Resampling.BICUBIC))
    ours = resize(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255, 52, 40)
    assert np.abs(ours.permute(1, 2, 0).numpy() * 255 - theirs).mean() < 1


@pytest.mark.parametrize("kernel", PIL_FILTERS)
def test_weights_of_every_target_pixel_sum_to_one(kernel):
    for source, target in ((5, 17), (17, 5), (1, 4), (9, 9)):
        torch.testing.assert_close(resampling_matrix(source, target, kernel).sum(-1), torch.ones(target).double())


def test_a_size_that_stays_leaves_the_pixels_alone():
    pixels = torch.rand(3, 8, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize(pixels, 8, 9), pixels)


def test_overshoot_is_clipped():
    edge = torch.zeros(3, 8, 8)
    edge[:, :, 4:] = 1.0
    enlarged = resize(edge, 33, 33, "lanczos")
    assert enlarged.min() == 0
    assert enlarged.max() == 1


def test_a_matrix_first_made_in_inference_mode_serves_a_backward_pass_later():
    resampling_matrix.cache_clear()
    with torch.inference_mode():
        resize(torch.rand(3, 6, 6).double(), 5, 5)
    pixels = torch.rand(3, 6, 6).double().requires_grad_()
    resize(pixels, 5, 5).sum().backward()
    assert pixels.grad is not None
