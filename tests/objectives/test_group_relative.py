import math

import pytest
import torch

from rewarddance.core.errors import UsageError
from rewarddance.objectives.group_relative import (
    clipped_loss,
    clipped_ratio_loss,
    corrected_log_ratio,
    group_advantages,
)
from rewarddance.objectives.sde import SdeStep, log_prob


def test_advantages_have_the_values_worked_out_by_hand():
    # Means 2 and 10; deviations -1, 0, 1 and -2, 0, 2; stds sqrt(2/3) and 2 sqrt(2/3).
    advantages = group_advantages(torch.tensor([[1.0, 2.0, 3.0], [8.0, 10.0, 12.0]]), floor=1e-3)
    unit = math.sqrt(1.5)
    assert advantages.tolist() == [pytest.approx([-unit, 0.0, unit])] * 2


def test_the_global_spread_is_that_of_all_rewards():
    # All of 1, 3, 5, 7: variance 5. Deviations of 1 within both groups.
    advantages = group_advantages(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), floor=1e-3, spread="global")
    assert advantages.tolist() == [pytest.approx([-1 / math.sqrt(5), 1 / math.sqrt(5)])] * 2


def test_every_group_has_a_mean_of_zero():
    rewards = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(group_advantages(rewards, 0.1).mean(1), torch.zeros(4), atol=1e-6, rtol=0)


def test_advantages_do_not_change_with_the_level_of_a_group():
    rewards = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        group_advantages(rewards + 7.0, 0.1), group_advantages(rewards, 0.1), atol=1e-5, rtol=1e-5
    )


def test_a_vanishing_spread_is_not_made_as_loud_as_a_difference():
    # Scores that differ by 1e-6 around 0.9999: divided by their own std they would be +1 and -1.
    scores = torch.tensor([[0.999900, 0.999901]], dtype=torch.float64)
    assert group_advantages(scores, floor=0.05).abs().max().item() == pytest.approx(0.5e-6 / 0.05, rel=1e-3)


def test_a_spread_above_the_floor_is_not_changed_by_it():
    rewards = torch.tensor([[0.0, 2.0]])
    assert torch.equal(group_advantages(rewards, 0.9), group_advantages(rewards, 1e-6))


def test_a_group_of_one_teaches_nothing():
    assert group_advantages(torch.tensor([[3.0], [5.0]]), 0.1).tolist() == [[0.0], [0.0]]


def test_advantages_are_clipped_on_both_sides():
    # 100 equal rewards and one that is far off: about 10 standard deviations.
    rewards = torch.cat([torch.zeros(1, 100), torch.full((1, 1), 50.0)], dim=1)
    assert group_advantages(rewards, 0.1).max().item() == 5.0
    assert group_advantages(-rewards, 0.1).min().item() == -5.0
    assert group_advantages(rewards, 0.1, clip=None).max().item() == pytest.approx(10.0)


def test_before_the_first_update_the_loss_is_minus_the_mean_advantage():
    log_probs = torch.tensor([-3.0, 4.0])
    result = clipped_ratio_loss(log_probs, log_probs, torch.tensor([1.0, 3.0]), 1e-3)
    assert result.loss.item() == -2.0
    assert (result.mean_ratio, result.largest_deviation, result.clip_share) == (1.0, 0.0, 0.0)


def test_before_the_first_update_the_loss_of_whole_groups_is_zero():
    advantages = group_advantages(torch.tensor([[1.0, 3.0], [5.0, 9.0]]), 0.1).flatten()
    assert clipped_ratio_loss(torch.ones(4), torch.ones(4), advantages, 1e-3).loss.item() == 0.0


def test_before_the_first_update_the_gradient_is_the_policy_gradient():
    log_probs = torch.zeros(2, requires_grad=True)
    clipped_ratio_loss(log_probs, torch.zeros(2), torch.tensor([1.0, -3.0]), 1e-3).loss.backward()
    assert log_probs.grad is not None
    # -A / batch.
    assert log_probs.grad.tolist() == [-0.5, 1.5]


def test_the_loss_has_the_values_worked_out_by_hand():
    # Ratios 1.5, 1.5, 0.5, 0.5 with advantages 1, -1, 1, -1 and a range of 0.2:
    # -1.2 (clipped), 1.5, -0.5, 0.8 (clipped): sum 0.6, mean 0.15.
    log_probs = torch.tensor([1.5, 1.5, 0.5, 0.5]).log()
    result = clipped_ratio_loss(log_probs, torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2)
    assert result.loss.item() == pytest.approx(0.15)
    assert result.clip_share == 0.5
    assert result.mean_ratio == pytest.approx(1.0)
    assert result.largest_deviation == pytest.approx(0.5)


def test_a_clipped_sample_teaches_nothing():
    log_probs = torch.tensor([1.5, 0.5]).log().requires_grad_()
    clipped_ratio_loss(log_probs, torch.zeros(2), torch.tensor([1.0, 1.0]), 0.2).loss.backward()
    assert log_probs.grad is not None
    # The second: -A * ratio / batch = -0.25.
    assert log_probs.grad.tolist() == pytest.approx([0.0, -0.25])


def test_the_old_policy_gets_no_gradient():
    old = torch.zeros(1, requires_grad=True)
    clipped_ratio_loss(torch.zeros(1, requires_grad=True), old, torch.ones(1), 0.2).loss.backward()
    assert old.grad is None


def _moved(noise: torch.Tensor) -> tuple[torch.Tensor, SdeStep, SdeStep]:
    rng = torch.Generator().manual_seed(1)
    rows = len(noise)
    old = SdeStep(torch.zeros(rows, 4, dtype=torch.float64), torch.full((rows,), 0.3, dtype=torch.float64))
    shift = torch.randn(1, 4, generator=rng, dtype=torch.float64)
    new = SdeStep(old.mean + 0.1 * shift, old.std)
    sample = old.draw(noise)
    return log_prob(sample, new) - log_prob(sample, old), new, old


def test_the_corrected_log_ratio_is_noise_times_the_shift_of_the_mean():
    noise = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_ratio, new, old = _moved(noise)
    corrected = corrected_log_ratio(log_ratio, new.mean, old.mean, old.std)
    torch.testing.assert_close(corrected, (noise * (new.mean - old.mean)).mean(1))


def test_the_correction_takes_away_the_downward_bias():
    noise = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_ratio, new, old = _moved(noise)
    corrected = corrected_log_ratio(log_ratio, new.mean, old.mean, old.std)
    shift = (new.mean - old.mean)[0]
    # Minus the divergence a latent; its standard error is sqrt(2 * 0.02 / 4 / 20000) = 0.0007.
    assert log_ratio.mean().item() == pytest.approx(-(shift.square() / (2 * 0.09)).mean().item(), abs=0.003)
    assert log_ratio.mean().item() < -0.01
    assert corrected.mean().item() == pytest.approx(0.0, abs=0.001)


def test_the_corrected_ratio_is_one_before_the_first_update():
    mean, std = torch.ones(2, 3), torch.full((2,), 0.5)
    corrected = corrected_log_ratio(torch.zeros(2), mean, mean, std)
    assert clipped_loss(corrected, torch.tensor([1.0, -1.0]), 1e-3).largest_deviation == 0.0


@pytest.mark.parametrize("floor", [0.0, -1.0, float("nan")])
def test_a_floor_that_bounds_nothing_is_refused(floor: float):
    with pytest.raises(UsageError, match="a floor above 0"):
        group_advantages(torch.ones(2, 4), floor)
