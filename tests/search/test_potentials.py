import numpy as np
import pytest

from rewarddance.search.potentials import log_weights, resample, shares

HISTORY = np.array([[0.5, -1.0], [0.2, 1.0], [1.5, 0.3]])


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
def test_the_product_of_all_weights_depends_on_the_last_reward_only(potential: str):
    factors = [log_weights(HISTORY[:look], potential, 2.0, is_last=look == 3) for look in (1, 2, 3)]
    np.testing.assert_allclose(np.sum(factors, axis=0), 2.0 * HISTORY[-1])


def test_weights_on_the_way_have_the_values_worked_out_by_hand():
    # Twice 0.2 - 0.5 and 1 - -1; the largest of 0.5, 0.2 and of -1, 1; their sums.
    np.testing.assert_allclose(log_weights(HISTORY[:2], "difference", 2.0, is_last=False), [-0.6, 4.0])
    np.testing.assert_allclose(log_weights(HISTORY[:2], "max", 2.0, is_last=False), [1.0, 2.0])
    np.testing.assert_allclose(log_weights(HISTORY[:2], "sum", 2.0, is_last=False), [1.4, 0.0])


def test_a_particle_without_a_reward_has_no_weight():
    history = np.array([[0.5, np.nan]])
    assert log_weights(history, "sum", 1.0, is_last=False).tolist() == [0.5, -np.inf]
    assert shares(log_weights(history, "max", 1.0, is_last=True)).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
def test_a_look_without_a_reward_is_left_out_of_the_product(potential: str):
    history = np.array([[0.5, 0.5], [np.nan, 0.1], [1.5, 0.3]])
    factors = [log_weights(history[:look], potential, 1.0, is_last=look == 3)[0] for look in (1, 2, 3)]
    assert factors[1] == -np.inf
    assert factors[0] + factors[2] == pytest.approx(1.5)


def test_copies_follow_the_shares():
    rng = np.random.default_rng(0)
    own = np.array([0.5, 0.25, 0.125, 0.125, 0.0, 0.0, 0.0, 0.0])
    assert np.bincount(resample(own, rng), minlength=8).tolist() == [4, 2, 1, 1, 0, 0, 0, 0]


def test_copies_are_right_on_average():
    rng = np.random.default_rng(0)
    own = np.array([0.6, 0.3, 0.1])
    counts = np.mean([np.bincount(resample(own, rng), minlength=3) for _ in range(2000)], axis=0)
    np.testing.assert_allclose(counts, 3 * own, atol=0.05)


def test_large_rewards_do_not_overflow():
    assert shares(np.array([1e4, 1e4, -np.inf])).tolist() == [0.5, 0.5, 0.0]
