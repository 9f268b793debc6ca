import math

import pytest
import torch

from rewarddance.objectives.preference import (
    bradley_terry_loss,
    order_gap,
    smoothed_targets,
    two_order_log_odds,
)


def test_an_uninformed_model_has_a_loss_of_ln_2_whatever_the_target():
    loss = bradley_terry_loss(torch.zeros(3), torch.tensor([0.0, 0.5, 1.0]))
    assert loss.tolist() == pytest.approx([math.log(2)] * 3)


def test_the_loss_has_the_values_worked_out_by_hand():
    # d = ln 3: sigma(d) = 3/4. t = 1: -ln(3/4). t = 0: -ln(1/4). t = 1/2: -ln(3/4)/2 - ln(1/4)/2.
    loss = bradley_terry_loss(torch.full((3,), math.log(3)), torch.tensor([1.0, 0.0, 0.5]))
    expected = [-math.log(0.75), -math.log(0.25), -0.5 * math.log(0.75) - 0.5 * math.log(0.25)]
    assert loss.tolist() == pytest.approx(expected)


def test_the_loss_grows_linearly_for_a_certain_and_wrong_model():
    # -log sigma(-1000) = 1000; the naive formula gives log(0).
    assert bradley_terry_loss(torch.tensor([-1000.0]), torch.tensor([1.0])).item() == pytest.approx(1000.0)


def test_the_loss_stays_when_the_two_media_change_places():
    differences = torch.tensor([0.3, -2.0, 5.0])
    targets = torch.tensor([0.0, 0.7, 1.0])
    torch.testing.assert_close(
        bradley_terry_loss(differences, targets, 0.1), bradley_terry_loss(-differences, 1 - targets, 0.1)
    )


def test_a_tie_is_learned_as_a_difference_of_zero():
    differences = torch.zeros(1, requires_grad=True)
    bradley_terry_loss(differences, torch.tensor([0.5])).sum().backward()
    assert differences.grad is not None
    assert differences.grad.item() == 0.0


def test_the_gradient_is_prediction_minus_target():
    differences = torch.tensor([math.log(3)], requires_grad=True)
    bradley_terry_loss(differences, torch.tensor([1.0])).sum().backward()
    assert differences.grad is not None
    assert differences.grad.item() == pytest.approx(0.75 - 1.0)


def test_smoothing_draws_hard_targets_inwards_and_leaves_ties():
    # s = 0.2: 0 -> 0.1, 0.5 -> 0.5, 1 -> 0.9.
    assert smoothed_targets(torch.tensor([0.0, 0.5, 1.0]), 0.2).tolist() == pytest.approx([0.1, 0.5, 0.9])


def test_with_smoothing_the_best_difference_is_finite():
    # The loss is least where sigma(d) = 0.9, that is d = ln 9.
    differences = torch.tensor([math.log(9)], requires_grad=True)
    bradley_terry_loss(differences, torch.tensor([1.0]), 0.2).sum().backward()
    assert differences.grad is not None
    assert differences.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_half_precision_differences_are_computed_in_float32():
    # 1 + 2^-7 is a bf16 number; the loss at d = 0.0078125 differs from ln 2 by 0.0039, below bf16's step there.
    loss = bradley_terry_loss(torch.tensor([0.0078125], dtype=torch.bfloat16), torch.tensor([1.0]))
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.0078125)), abs=1e-7)


def test_two_orders_are_half_the_difference():
    assert two_order_log_odds(torch.tensor([3.0]), torch.tensor([-1.0])).item() == 2.0


def test_two_orders_change_sign_when_the_media_change_places():
    forward, backward = torch.tensor([1.3, -0.2]), torch.tensor([0.4, 2.5])
    assert torch.equal(two_order_log_odds(forward, backward), -two_order_log_odds(backward, forward))


def test_a_model_that_always_says_yes_has_no_preference():
    always = torch.tensor([4.0])
    assert two_order_log_odds(always, always).item() == 0.0


def test_the_order_gap_is_zero_for_a_consistent_model():
    assert order_gap(torch.tensor([1.7]), torch.tensor([-1.7])).item() == pytest.approx(0.0)


def test_the_order_gap_is_one_for_a_model_that_only_sees_positions():
    assert order_gap(torch.tensor([50.0]), torch.tensor([50.0])).item() == pytest.approx(1.0)


def test_the_order_gap_compares_probabilities():
    # sigma(ln 3) = 3/4 forwards; sigma(0) = 1/2 backwards, so 1 - 1/2 from the other side: |3/4 - 1/2| = 1/4.
    assert order_gap(torch.tensor([math.log(3)]), torch.tensor([0.0])).item() == pytest.approx(0.25)


def test_the_order_gap_stays_when_the_media_change_places():
    forward, backward = torch.tensor([1.3, -0.2]), torch.tensor([0.4, 2.5])
    torch.testing.assert_close(order_gap(forward, backward), order_gap(backward, forward))
