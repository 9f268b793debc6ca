import pytest
import torch

from rewarddance.objectives.flow import add_noise, flow_matching_loss
from rewarddance.objectives.forward_process import forward_process_loss, old_policy_share, optimality


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X0, NOISE, OLD = _normal(3, 4, 2), _normal(3, 4, 2, seed=1), _normal(3, 4, 2, seed=2)
SIGMA = torch.tensor([0.9, 0.5, 0.2])


def test_an_average_sample_is_as_likely_good_as_bad():
    # Advantages of 0, half the largest, and beyond it on both sides.
    assert optimality(torch.tensor([0.0, 2.5, 9.0, -9.0]), 5.0).tolist() == [0.5, 0.75, 1.0, 0.0]


def test_the_loss_has_the_value_worked_out_by_hand():
    # x0 = 0, noise = 2, sigma = 0.5: latents 1. v = 4, old 3, beta 0.5: v+ = 3.5, v- = 2.5.
    # Predictions 1 - 1.75 = -0.75 and 1 - 1.25 = -0.25; squares over absolute values: 0.75 and 0.25.
    # p = 0.8: (0.8 * 0.75 + 0.2 * 0.25) / 0.5 = 1.3.
    one = torch.ones(1, 1)
    loss = forward_process_loss(4 * one, 3 * one, 0 * one, 2 * one, torch.tensor(0.5), torch.tensor([0.8]), 0.5)
    assert loss.item() == pytest.approx(1.3)


def test_for_the_old_policy_it_is_the_flow_matching_loss_with_its_weight():
    # Both predictions are off by sigma * e: (sigma^2 mean e^2) / (sigma mean |e|) / beta, whatever is good.
    good = torch.tensor([0.0, 0.3, 1.0])
    errors = (OLD - (NOISE - X0)).flatten(1)
    expected = SIGMA * flow_matching_loss(OLD, X0, NOISE) / errors.abs().mean(1) / 0.5
    torch.testing.assert_close(forward_process_loss(OLD, OLD, X0, NOISE, SIGMA, good, 0.5), expected)


def _gradient(good: float) -> torch.Tensor:
    velocity = OLD.clone().requires_grad_()
    forward_process_loss(velocity, OLD, X0, NOISE, SIGMA, torch.full((3,), good)).sum().backward()
    assert velocity.grad is not None
    return velocity.grad


def test_a_good_sample_pulls_the_velocity_to_its_own():
    towards = NOISE - X0 - OLD
    assert ((-_gradient(1.0) * towards).flatten(1).sum(1) > 0).all()


def test_a_bad_sample_pushes_the_velocity_away_as_hard():
    torch.testing.assert_close(_gradient(0.0), -_gradient(1.0))


def test_an_average_sample_does_not_move_the_policy():
    torch.testing.assert_close(_gradient(0.5), torch.zeros_like(OLD), atol=1e-7, rtol=0)


def test_descent_makes_rewarded_samples_likelier():
    # Samples at -1 and +1, the right one rewarded; a velocity that is one number for all starts between them.
    x0 = torch.tensor([[-1.0], [1.0]]).repeat(500, 1)
    good = torch.tensor([0.0, 1.0]).repeat(500)
    noise = _normal(1000, 1)
    sigma = torch.full((1000,), 0.7)
    old = noise  # Exact for a policy whose x0 is 0 on average.
    shift = torch.zeros(1, requires_grad=True)
    for _ in range(20):
        loss = forward_process_loss(old + shift, old, x0, noise, sigma, good).mean()
        (slope,) = torch.autograd.grad(loss, shift)
        shift = (shift - 0.1 * slope).detach().requires_grad_()
    # The prediction of x0 moves by -sigma * shift: upwards if the shift is negative.
    predicted = add_noise(x0, noise, sigma) - sigma[:, None] * (old + shift)
    unmoved = add_noise(x0, noise, sigma) - sigma[:, None] * old
    assert (predicted - unmoved).mean().item() > 0.1


def test_the_old_policy_and_the_weights_get_no_gradient():
    old = OLD.clone().requires_grad_()
    velocity = _normal(3, 4, 2, seed=4).requires_grad_()
    forward_process_loss(velocity, old, X0, NOISE, SIGMA, torch.ones(3)).sum().backward()
    assert old.grad is None
    # With v+ = v and a weight that is data: 2 sigma * (sigma e) / (D w), where w = sigma mean |e|.
    errors = (velocity - (NOISE - X0)).detach()
    weight = errors.abs().flatten(1).mean(1)
    assert velocity.grad is not None
    torch.testing.assert_close(velocity.grad, 2 * SIGMA[:, None, None] * errors / weight[:, None, None] / 8)


def test_a_perfect_prediction_has_no_loss_and_a_finite_gradient():
    nothing = torch.zeros(1, 2)
    velocity = nothing.clone().requires_grad_()
    loss = forward_process_loss(velocity, nothing, nothing, nothing, torch.tensor(0.5), torch.ones(1))
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert velocity.grad is not None
    assert velocity.grad.tolist() == [[0.0, 0.0]]


def test_shares_of_the_old_policy_follow_their_schedule():
    # rising: 0.001 a step up to 0.5; late: 0.0075 a step from step 75 up to 0.999.
    assert [old_policy_share(step, "none") for step in (0, 1000)] == [0.0, 0.0]
    assert [old_policy_share(step, "rising") for step in (0, 100, 5000)] == pytest.approx([0.0, 0.1, 0.5])
    assert [old_policy_share(step, "late") for step in (74, 75, 115, 5000)] == pytest.approx([0.0, 0.0, 0.3, 0.999])
