import numpy as np
import pytest

from rewarddance.metrics.ranking import kendall_tau, rank_by_wins, spearman

NAN = float("nan")


def antisymmetric(rewards: list[float]) -> np.ndarray:
    values = np.array(rewards)
    return values[:, None] - values[None, :]


def test_candidates_are_ordered_by_wins() -> None:
    ranking = rank_by_wins(antisymmetric([0.5, 3.0, 1.0]))
    assert ranking.order == (1, 2, 0)
    np.testing.assert_array_equal(ranking.wins, [0, 2, 1])


def test_a_cycle_is_broken_by_mean_log_odds() -> None:
    # 0 beats 1 by 1, 1 beats 2 by 2, 2 beats 0 by 3: one win each; means -1, 0.5, 0.5, then index
    log_odds = np.array([[NAN, 1.0, -3.0], [-1.0, NAN, 2.0], [3.0, -2.0, NAN]])
    ranking = rank_by_wins(log_odds)
    np.testing.assert_array_equal(ranking.wins, [1, 1, 1])
    np.testing.assert_array_equal(ranking.mean_log_odds, [-1.0, 0.5, 0.5])
    assert ranking.order == (1, 2, 0)


def test_exact_ties_count_one_half() -> None:
    np.testing.assert_array_equal(rank_by_wins(np.zeros((3, 3))).wins, [1.0, 1.0, 1.0])


def test_a_candidate_that_was_never_judged_comes_last_without_wins() -> None:
    log_odds = np.array([[NAN, NAN, NAN], [NAN, NAN, -1.0], [NAN, 1.0, NAN]])
    ranking = rank_by_wins(log_odds)
    assert ranking.order == (2, 1, 0)
    np.testing.assert_array_equal(ranking.wins, [NAN, 0.0, 1.0])


def test_kendall_counts_pairs() -> None:
    # pairs of 1 3 2 against 1 2 3: two in order, one not: (2 - 1) / 3
    assert kendall_tau(np.array([1.0, 3.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(1 / 3)


def test_spearman_by_hand() -> None:
    # ranks 1 3 2 against 1 2 3: 1 - 6 * (0 + 1 + 1) / (3 * 8)
    assert spearman(np.array([1.0, 30.0, 2.0]), np.array([0.1, 0.2, 0.3])) == pytest.approx(0.5)


def test_rank_correlation_with_a_constant_is_undefined() -> None:
    assert kendall_tau(np.ones(3), np.arange(3.0)) is None
    assert spearman(np.arange(3.0), np.ones(3)) is None
