import math

import numpy as np
import pytest

from rewarddance.metrics.calibration import (
    ReliabilityBin,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_equal_mass_bins_hold_the_same_number() -> None:
    low, high = reliability_curve(np.array([0.9, 0.1, 0.2, 0.7]), np.array([1.0, 0.0, 1.0, 1.0]), bins=2)
    assert low == ReliabilityBin((0.1 + 0.2) / 2, 0.5, 2)
    assert (high.mean_score, high.mean_target, high.count) == (pytest.approx(0.8), 1.0, 2)


def test_equal_width_bins_cover_the_same_range_and_leave_empty_ones_out() -> None:
    curve = reliability_curve(np.array([0.0, 0.2, 1.0]), np.array([0.0, 1.0, 1.0]), bins=4, binning="equal_width")
    assert curve == (ReliabilityBin(0.1, 0.5, 2), ReliabilityBin(1.0, 1.0, 1))


def test_more_bins_than_comparisons_is_one_each() -> None:
    assert [part.count for part in reliability_curve(np.array([0.3, 0.6]), np.array([0.0, 1.0]), bins=10)] == [1, 1]


def test_calibration_error_by_hand() -> None:
    curve = (ReliabilityBin(0.2, 0.3, 30), ReliabilityBin(0.9, 0.7, 10))
    assert expected_calibration_error(curve) == pytest.approx(0.75 * 0.1 + 0.25 * 0.2)


@pytest.mark.parametrize("binning", ["equal_mass", "equal_width"])
def test_a_calibrated_judge_has_almost_no_error(binning: str) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    curve = reliability_curve(scores, (rng.random(20_000) < scores).astype(float), binning=binning)
    assert expected_calibration_error(curve) < 0.015


def test_a_sure_and_wrong_judge_has_error_one() -> None:
    assert expected_calibration_error(reliability_curve(np.ones(5), np.zeros(5))) == 1.0


def test_nothing_judged_has_no_calibration() -> None:
    empty = np.array([])
    assert math.isnan(expected_calibration_error(reliability_curve(empty, empty)))
    assert math.isnan(brier_score(empty, empty))


def test_brier_score_by_hand() -> None:
    assert brier_score(np.array([0.8, 0.5]), np.array([1.0, 0.0])) == pytest.approx((0.04 + 0.25) / 2)


def test_temperature_undoes_a_known_scale() -> None:
    rng = np.random.default_rng(1)
    true_log_odds = rng.normal(scale=2.0, size=20_000)
    targets = (rng.random(20_000) < sigmoid(true_log_odds)).astype(float)
    assert fit_temperature(3.0 * true_log_odds, targets) == pytest.approx(3.0, rel=0.05)


def test_temperature_of_soft_targets_is_exact() -> None:
    log_odds = np.array([-2.0, 0.5, 1.0])
    assert fit_temperature(log_odds, sigmoid(log_odds / 2.5)) == pytest.approx(2.5, rel=1e-3)
