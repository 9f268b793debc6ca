import torch

from rewarddance.config.alignment import AugmentationConfig
from rewarddance.training.augmentation import augmented, moved

PICTURES = torch.rand((3, 3, 6, 6), generator=torch.Generator().manual_seed(0))


def test_nothing_asked_for_changes_nothing():
    assert torch.equal(augmented(PICTURES, AugmentationConfig(), 0, 0), PICTURES)


def test_a_shift_moves_a_picture_as_a_whole_and_repeats_its_border():
    ramp = torch.arange(6.0).expand(1, 3, 6, 6)
    for step in range(8):
        moved = augmented(ramp, AugmentationConfig(shift=2), 0, step)
        offset = moved[0, 0, 0, 2] - ramp[0, 0, 0, 2]
        assert offset in (-2, -1, 0, 1, 2)
        assert torch.equal(moved, (ramp + offset).clamp(0, 5))


def test_each_step_draws_anew_and_the_same_step_the_same():
    settings = AugmentationConfig(shift=2, noise=0.1)
    first, again, later = (augmented(PICTURES, settings, 0, step) for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_micro_batches_of_a_step_differ_and_the_first_is_what_it_was_without_a_number():
    settings = AugmentationConfig(shift=2, noise=0.1)
    plain, first, second = (augmented(PICTURES, settings, 0, 1, *number) for number in ((), (0,), (1,)))
    assert torch.equal(first, plain)
    assert not torch.equal(second, first)


def test_noise_has_the_size_that_was_asked_for():
    grey = torch.full((8, 3, 32, 32), 0.5)
    assert abs(float((augmented(grey, AugmentationConfig(noise=0.1), 0, 0) - grey).std()) - 0.1) < 0.002


def test_gradients_go_through():
    pictures = PICTURES.clone().requires_grad_()
    augmented(pictures, AugmentationConfig(shift=1, noise=0.1), 0, 0).sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0


def test_a_picture_that_is_moved_down_and_left_repeats_its_top_row_and_right_column():
    picture = torch.arange(9.0).reshape(1, 1, 3, 3).expand(1, 3, 3, 3)
    # rows 0 1 2 / 3 4 5 / 6 7 8: down by one, then left by one
    assert moved(picture, 1, -1)[0, 0].tolist() == [[1, 2, 2], [1, 2, 2], [4, 5, 5]]
    assert torch.equal(moved(picture, 0, 0), picture)


def test_frames_of_a_clip_are_moved_together():
    clips = PICTURES[:, None].repeat(1, 4, 1, 1, 1)
    moved_clips = augmented(clips, AugmentationConfig(shift=2), 0, 1)
    pictures = augmented(PICTURES, AugmentationConfig(shift=2), 0, 1)
    assert torch.equal(moved_clips, pictures[:, None].expand_as(clips))
    assert torch.equal(moved(clips, 1, -1), moved(PICTURES, 1, -1)[:, None].expand_as(clips))


def test_frames_of_a_clip_have_noise_of_their_own():
    noisy = augmented(PICTURES[:, None].repeat(1, 4, 1, 1, 1), AugmentationConfig(noise=0.1), 0, 1)
    assert not torch.equal(noisy[:, 0], noisy[:, 1])
