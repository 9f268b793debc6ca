from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rewarddance.core.errors import UsageError
from rewarddance.core.types import JudgementRequest
from tests.rewards.conftest import NewModel

PROMPTS = ["a red square", "two blue circles"]


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def reference_pixels() -> torch.Tensor:
    return torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["pairwise", "pointwise", "scalar"])
def test_the_gradient_agrees_with_finite_differences(
    new_model: NewModel, pixels: torch.Tensor, reference_pixels: torch.Tensor, kind: Any
):
    model = new_model(kind)
    model.module.double()
    # Off the bounds of [0, 1], where clipping after a resize has a kink.
    pixels, reference_pixels = 0.3 + 0.4 * pixels, 0.3 + 0.4 * reference_pixels
    pixels.requires_grad_(True)
    (gradient,) = torch.autograd.grad(model.reward(pixels, PROMPTS, reference_pixels).sum(), pixels)
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    direction = 0.6 * direction / direction.norm() + 0.8 * gradient / gradient.norm()
    with torch.no_grad():
        above = model.reward(pixels + 0.01 * direction, PROMPTS, reference_pixels).sum()
        below = model.reward(pixels - 0.01 * direction, PROMPTS, reference_pixels).sum()
    # Root-mean-square norms of the language model compute in float32 whatever their input, hence not 1e-9.
    torch.testing.assert_close((above - below) / 0.02, (gradient * direction).sum(), rtol=1e-4, atol=1e-8)


def test_parameters_take_no_part_and_keep_their_settings(
    new_model: NewModel, pixels: torch.Tensor, reference_pixels: torch.Tensor
):
    model = new_model("pairwise")
    parameters = list(model.module.parameters())
    parameters[0].requires_grad_(False)
    wanted = [parameter.requires_grad for parameter in parameters]
    pixels = pixels.float().requires_grad_(True)
    model.reward(pixels, PROMPTS, reference_pixels.float()).sum().backward()
    assert pixels.grad is not None
    assert all(parameter.grad is None for parameter in parameters)
    assert [parameter.requires_grad for parameter in parameters] == wanted


@pytest.mark.parametrize("kind", ["pairwise", "pointwise", "scalar"])
def test_the_reward_of_pixels_is_that_of_the_image(new_model: NewModel, images: list[Image.Image], kind: Any):
    model = new_model(kind)
    squares = [image.resize((32, 32)) for image in images[:4]]
    stacked = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in squares])
    rewards = model.reward(stacked[:2], PROMPTS, stacked[2:])
    requests = [
        JudgementRequest(prompt, candidate, reference)
        for prompt, candidate, reference in zip(PROMPTS, squares[:2], squares[2:], strict=True)
    ]
    judged = [judgement.reward for judgement in model.judge(requests)]
    # The two routes differ by rounding to 8 bits only; at the model's own size there is nothing to resize.
    assert rewards.tolist() == pytest.approx(judged, abs=1e-3)


def test_two_orders_hold_for_pixels_too(new_model: NewModel, pixels: torch.Tensor):
    model = new_model("pairwise")
    one, other = pixels.float().unbind()
    forward = model.reward(one[None], PROMPTS[:1], other[None])
    torch.testing.assert_close(forward, -model.reward(other[None], PROMPTS[:1], one[None]))


@pytest.mark.parametrize("kind", ["pointwise", "scalar"])
def test_without_a_reference_image_a_pointwise_reward_stands_alone(
    new_model: NewModel, pixels: torch.Tensor, reference_pixels: torch.Tensor, kind: Any
):
    model = new_model(kind)
    pixels, reference_pixels = pixels.float(), reference_pixels.float()
    difference = model.reward(pixels, PROMPTS) - model.reward(reference_pixels, PROMPTS)
    torch.testing.assert_close(model.reward(pixels, PROMPTS, reference_pixels), difference)


def test_clips_have_frames_after_the_batch(new_model: NewModel, pixels: torch.Tensor):
    model = new_model("pointwise")
    clips = pixels.float()[:, None].repeat(1, 3, 1, 1, 1).requires_grad_(True)
    model.reward(clips, PROMPTS).sum().backward()
    assert clips.grad is not None
    assert (clips.grad.abs().amax(dim=(2, 3, 4)) > 0).all()


def test_a_clip_may_be_judged_against_a_still_image(new_model: NewModel, pixels: torch.Tensor):
    model = new_model("pairwise")
    stills, clips = pixels.float(), pixels.float()[:, None].repeat(1, 3, 1, 1, 1)
    together = model.reward(clips, PROMPTS, stills)
    alone = [model.reward(clips[[row]], [PROMPTS[row]], stills[[row]]) for row in range(len(PROMPTS))]
    torch.testing.assert_close(together, torch.cat(alone))
    assert not torch.allclose(together, model.reward(stills, PROMPTS, stills))


def test_prompts_of_very_different_length_stay_with_their_pixels(new_model: NewModel, pixels: torch.Tensor):
    model = new_model("scalar")
    prompts = ["square " * 200, "a"]
    together = model.reward(pixels.float(), prompts)
    alone = [model.reward(sample[None].float(), [prompt]) for sample, prompt in zip(pixels, prompts, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_counts_that_do_not_match_are_refused(new_model: NewModel, pixels: torch.Tensor):
    with pytest.raises(UsageError, match="2 candidates need as many prompts"):
        new_model("scalar").reward(pixels.float(), PROMPTS[:1])


def test_an_empty_batch_is_refused(new_model: NewModel, pixels: torch.Tensor):
    with pytest.raises(UsageError, match="nothing to reward"):
        new_model("scalar").reward(pixels[:0].float(), [])


def test_a_pairwise_reward_needs_a_reference_image(new_model: NewModel, pixels: torch.Tensor):
    with pytest.raises(UsageError, match="reference image"):
        new_model("pairwise").reward(pixels.float(), PROMPTS)


def test_a_prompt_that_is_too_long_is_refused(new_model: NewModel, pixels: torch.Tensor):
    with pytest.raises(UsageError, match="shorten the prompt"):
        new_model("scalar").reward(pixels.float(), ["square " * 3_000, "a"])


def test_pixels_in_another_range_are_refused(new_model: NewModel, pixels: torch.Tensor, reference_pixels: torch.Tensor):
    model = new_model("pairwise")
    with pytest.raises(UsageError, match="divide by 255"):
        model.reward(255 * pixels, PROMPTS, reference_pixels)
    with pytest.raises(UsageError, match=r"\(pixels \+ 1\) / 2"):
        model.reward(2 * pixels - 1, PROMPTS, reference_pixels)
    with pytest.raises(UsageError, match=r"\(pixels \+ 1\) / 2"):
        model.reward(pixels, PROMPTS, 2 * reference_pixels - 1)


def test_a_decoder_may_overshoot_and_noise_may_be_added(
    new_model: NewModel, pixels: torch.Tensor, reference_pixels: torch.Tensor
):
    noise = 0.3 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert new_model("pairwise").reward(pixels + noise, PROMPTS, reference_pixels).isfinite().all()


def test_of_a_long_clip_as_many_frames_are_looked_at_as_of_a_file(new_model: NewModel):
    model = new_model("pointwise")
    count = model.record.media.frames_per_clip
    clips = torch.rand(2, 2 * count - 1, 3, 32, 32, generator=torch.Generator().manual_seed(4)).requires_grad_(True)
    # Evenly spaced, the first and the last included: every second one.
    rewards = model.reward(clips, PROMPTS)
    torch.testing.assert_close(rewards, model.reward(clips[:, ::2].detach(), PROMPTS))
    (gradient,) = torch.autograd.grad(rewards.sum(), clips)
    assert (gradient[:, ::2].abs().amax(dim=(2, 3, 4)) > 0).all()
    assert not gradient[:, 1::2].any()


def test_a_clip_may_be_judged_against_a_clip(new_model: NewModel, pixels: torch.Tensor):
    model = new_model("pairwise")
    clips = pixels.float()[:, None].repeat(1, 3, 1, 1, 1)
    # Two orders: what is compared with itself is as good as itself.
    torch.testing.assert_close(model.reward(clips, PROMPTS, clips), torch.zeros(2), atol=1e-5, rtol=0)
    assert not torch.allclose(model.reward(clips, PROMPTS, clips.flip(3)), torch.zeros(2), atol=1e-5, rtol=0)
