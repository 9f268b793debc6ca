import math

import numpy as np
import pytest

from rewarddance.metrics.agreement import (
    accuracy,
    agreement,
    correctness,
    cross_fitted_thresholds,
    fit_tie_threshold,
    tie_matches,
    win_rate,
)

NAN = float("nan")


def test_accuracy_drops_ties_and_counts_failures_as_wrong() -> None:
    log_odds = np.array([2.0, -1.0, 0.5, NAN, 3.0])
    targets = np.array([1.0, 1.0, 0.5, 0.0, 0.9])
    # right, wrong, dropped, failed, right (soft labels count by their side): 2 of 4
    assert accuracy(log_odds, targets) == 0.5


def test_an_undecided_judge_earns_one_half() -> None:
    np.testing.assert_array_equal(correctness(np.zeros(2), np.array([1.0, 0.0])), [0.5, 0.5])


def test_accuracy_does_not_change_when_media_are_swapped() -> None:
    rng = np.random.default_rng(0)
    log_odds, targets = rng.normal(size=50), rng.choice([0.0, 0.5, 1.0], size=50)
    assert accuracy(log_odds, targets) == accuracy(-log_odds, 1 - targets)


def test_accuracy_of_ties_only_is_undefined() -> None:
    assert math.isnan(accuracy(np.array([1.0]), np.array([0.5])))


def test_unjudged_comparisons_are_dropped() -> None:
    assert accuracy(np.array([1.0, 1.0]), np.array([1.0, NAN])) == 1.0
    assert agreement(np.array([1.0, 1.0]), np.array([1.0, NAN]), tie_threshold=0.1) == 1.0


def test_agreement_counts_ties_on_both_sides() -> None:
    log_odds = np.array([0.1, 0.1, -2.0, -2.0, NAN])
    targets = np.array([0.5, 1.0, 0.5, 0.0, 0.5])
    # tie = tie; tie instead of second; first instead of tie; first = first; failed: 2 of 5
    assert agreement(log_odds, targets, tie_threshold=0.5) == pytest.approx(0.4)


def test_agreement_without_ties_and_threshold_is_accuracy() -> None:
    rng = np.random.default_rng(1)
    log_odds, targets = rng.normal(size=60), rng.choice([0.0, 1.0], size=60)
    assert agreement(log_odds, targets, tie_threshold=0.0) == accuracy(log_odds, targets)


def test_fitted_threshold_separates_ties_from_choices() -> None:
    log_odds = np.array([0.1, -0.2, 1.0, -3.0])
    targets = np.array([0.5, 0.5, 1.0, 0.0])
    # all four agree for any threshold in [0.2, 1): midway is 0.6
    assert fit_tie_threshold(log_odds, targets) == pytest.approx(0.6)


def test_fitted_threshold_is_zero_without_ties() -> None:
    assert fit_tie_threshold(np.array([-0.1, 2.0, NAN]), np.array([1.0, 1.0, 0.5])) == 0.0


def test_fitted_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(2)
    log_odds, targets = rng.normal(size=80).round(1), rng.choice([0.0, 0.5, 1.0], size=80)
    fitted = agreement(log_odds, targets, fit_tie_threshold(log_odds, targets))
    grid = [agreement(log_odds, targets, threshold) for threshold in np.linspace(0, 4, 401)]
    assert fitted == pytest.approx(max(grid))


def test_no_comparison_is_judged_with_a_threshold_fitted_on_itself() -> None:
    rng = np.random.default_rng(3)
    log_odds, targets = rng.normal(size=40), rng.choice([0.0, 0.5, 1.0], size=40)
    clusters = np.arange(40) // 4
    before = cross_fitted_thresholds(log_odds, targets, clusters, np.random.default_rng(7))
    fold = before.thresholds == before.thresholds[0]
    changed = np.where(fold, 1 - targets, targets) * np.where(fold, 0.0, 1.0)  # scramble the first fold's targets
    after = cross_fitted_thresholds(log_odds, changed, clusters, np.random.default_rng(7))
    assert len(set(before.fold_thresholds)) == 2
    np.testing.assert_array_equal(before.thresholds[fold], after.thresholds[fold])


def test_comparisons_of_one_prompt_share_a_fold() -> None:
    rng = np.random.default_rng(4)
    log_odds, targets = rng.normal(size=60), rng.choice([0.0, 0.5, 1.0], size=60)
    clusters = np.arange(60) % 6
    fit = cross_fitted_thresholds(log_odds, targets, clusters, np.random.default_rng(0))
    assert all(len(set(fit.thresholds[clusters == cluster])) == 1 for cluster in range(6))


def test_one_threshold_per_comparison_is_used_for_it_alone() -> None:
    matches = tie_matches(np.array([1.0, 1.0]), np.array([0.5, 0.5]), np.array([2.0, 0.5]))
    np.testing.assert_array_equal(matches, [1.0, 0.0])


def test_win_rate_counts_ties_as_one_half() -> None:
    assert win_rate(np.array([1.0, 0.5, 0.0, 1.0])) == pytest.approx(2.5 / 4)
