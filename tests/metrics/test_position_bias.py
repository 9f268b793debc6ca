import math

import numpy as np
import pytest

from rewarddance.metrics.position_bias import inconsistency, order_gap, position_bias, two_order_log_odds

NAN = float("nan")
LOG_THREE = math.log(3.0)  # score 0.75


def test_two_orders_are_antisymmetric() -> None:
    forward, backward = np.array([2.0, -1.0]), np.array([0.5, 3.0])
    both = two_order_log_odds(forward, backward)
    np.testing.assert_array_equal(both, [0.75, -2.0])  # (2 - 0.5) / 2, (-1 - 3) / 2
    np.testing.assert_array_equal(two_order_log_odds(backward, forward), -both)


def test_choosing_the_same_slot_twice_is_inconsistent() -> None:
    forward, backward = np.array([1.0, 1.0, -1.0, 0.0, 0.0, NAN]), np.array([1.0, -1.0, -2.0, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(inconsistency(forward, backward), [1, 0, 1, 0, 1, NAN])


def test_order_gap_by_hand() -> None:
    # 0.75 against 1 - 0.75; 0.75 against 1 - 0.25
    np.testing.assert_allclose(order_gap(np.full(2, LOG_THREE), np.array([LOG_THREE, -LOG_THREE])), [0.5, 0.0])


def test_order_gap_of_extreme_log_odds_is_finite() -> None:
    np.testing.assert_array_equal(order_gap(np.array([1e4]), np.array([1e4])), [1.0])


def test_a_judge_that_always_takes_the_second_slot() -> None:
    bias = position_bias(np.full(4, LOG_THREE), np.full(4, LOG_THREE))
    assert (bias.share_inconsistent, bias.share_second) == (1.0, 1.0)
    assert bias.mean_order_gap == pytest.approx(0.5)
    assert bias.mean_slot_log_odds == pytest.approx(LOG_THREE)


def test_an_antisymmetric_judge_has_no_bias() -> None:
    forward = np.random.default_rng(0).normal(size=20)
    bias = position_bias(forward, -forward)
    assert (bias.share_inconsistent, bias.share_second, bias.mean_slot_log_odds) == (0.0, 0.5, 0.0)
    assert bias.mean_order_gap == pytest.approx(0.0, abs=1e-15)


def test_failed_orders_are_left_out() -> None:
    bias = position_bias(np.array([1.0, NAN]), np.array([-1.0, 2.0]))
    assert bias.share_inconsistent == 0.0
    assert bias.share_second == pytest.approx(2 / 3)  # of three answers, two took the second slot
