import pytest
import torch

from rewarddance.objectives.flow import ode_step
from rewarddance.objectives.reward_feedback import History, network_input, refl_loss


def test_without_a_ceiling_the_loss_is_minus_the_reward():
    assert refl_loss(torch.tensor([-1.5, 0.0, 3.0])).tolist() == [1.5, 0.0, -3.0]


def test_the_ceiling_asks_for_what_is_missing_and_no_more():
    # Ceiling 2: 2 - (-1) = 3, 2 - 1.5 = 0.5, nothing above.
    assert refl_loss(torch.tensor([-1.0, 1.5, 4.0]), 2.0).tolist() == [3.0, 0.5, 0.0]


def test_a_sample_above_the_ceiling_teaches_nothing():
    reward = torch.tensor([1.0, 3.0], requires_grad=True)
    refl_loss(reward, 2.0).sum().backward()
    assert reward.grad is not None
    assert reward.grad.tolist() == [-1.0, 0.0]


def test_the_ceiling_holds_for_log_odds_whatever_the_scale_of_what_is_climbed():
    reward = torch.tensor([0.3, 0.3, -5.0], requires_grad=True)
    loss = refl_loss(reward, 2.0, torch.tensor([1.0, 2.0, 3.0]))
    loss.sum().backward()
    # 2 - 1 is missing of the first; the others have enough, however low their normalised reward.
    assert loss.tolist() == [1.0, 0.0, 0.0]
    assert reward.grad is not None
    assert reward.grad.tolist() == [-1.0, 0.0, 0.0]


def test_the_gradient_does_not_fade_for_a_certain_reward():
    reward = torch.tensor([30.0], requires_grad=True)
    refl_loss(reward).sum().backward()
    assert reward.grad is not None
    assert reward.grad.item() == -1.0


def _gradient_of_two_steps(history: History) -> float:
    # v = theta * x, two steps of -0.5 from x = 1, theta = 1.
    theta = torch.tensor(1.0, requires_grad=True)
    latents = torch.ones(1, 1)
    for sigma in (1.0, 0.5):
        velocity = theta * network_input(latents, history)
        latents = ode_step(latents, velocity, torch.tensor(sigma), torch.tensor(sigma - 0.5))
    latents.sum().backward()
    assert theta.grad is not None
    return theta.grad.item()


def test_the_kept_history_gives_the_whole_gradient():
    # x = (1 - theta / 2)^2, so dx/dtheta = -(1 - theta / 2) = -0.5.
    assert _gradient_of_two_steps("kept") == pytest.approx(-0.5)


def test_the_cut_history_leaves_the_sum_over_steps():
    # Sum of dt * x_k: -0.5 * 1 - 0.5 * 0.5 = -0.75.
    assert _gradient_of_two_steps("cut") == pytest.approx(-0.75)


def test_a_reward_that_is_no_number_does_not_pass_for_one_above_the_ceiling():
    loss = refl_loss(torch.tensor([float("nan"), 3.0]), ceiling=2.0)
    assert loss.isnan().tolist() == [True, False]
