import numpy as np
import pytest
from scipy import stats

from rewarddance.training.guard_evidence import (
    fall_from_best,
    mean_change,
    spent,
    standardised,
    trailing_mean,
)


def test_the_error_of_all_looks_adds_up_to_the_error_of_the_run():
    shares = [spent(0.05, look, looks=20) for look in range(1, 20_001)]
    assert sum(shares) == pytest.approx(0.05, rel=2e-3)


def test_half_of_the_error_is_spent_within_the_planned_looks():
    # 1 - L / (L + L) = 1/2
    assert sum(spent(0.05, look, looks=20) for look in range(1, 21)) == pytest.approx(0.025)


def test_evidence_of_a_mean_is_students_t():
    values = np.random.default_rng(0).normal(0.2, 1.0, size=25)
    expected = stats.ttest_1samp(values, 0.0, alternative="greater")
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    change = mean_change(values)
    assert (change.p_value, change.low, change.high) == pytest.approx((expected.pvalue, interval.low, interval.high))


def test_no_change_at_all_is_no_evidence():
    assert mean_change(np.zeros(10)).p_value == 1.0


def test_one_prompt_is_no_evidence():
    assert mean_change(np.array([5.0])).p_value == 1.0


def test_a_single_evaluation_has_not_fallen():
    fall = fall_from_best(np.array([[1.0, 2.0, 4.0]]))
    assert (fall.change.mean, fall.change.p_value, fall.rise, fall.best) == (0.0, 1.0, 0.0, 0)


def test_a_trailing_mean_starts_with_what_there_is():
    values = np.array([[0.0], [2.0], [4.0]])
    assert trailing_mean(values, 2).ravel().tolist() == [0.0, 1.0, 3.0]


def test_judges_are_measured_in_their_own_spread_at_the_start():
    # spread of (0, 4) is 2 and its mean 2: 6 is two spreads above
    rows = [{"judge": np.array([0.0, 4.0])}, {"judge": np.array([6.0, 6.0])}]
    assert standardised(rows)["judge"].tolist() == [[-1.0, 1.0], [2.0, 2.0]]


def test_a_judge_that_is_constant_at_the_start_keeps_its_unit():
    rows = [{"judge": np.array([1.0, 1.0])}, {"judge": np.array([1.5, 0.5])}]
    assert standardised(rows)["judge"].tolist() == [[0.0, 0.0], [0.5, -0.5]]


def test_a_fall_is_measured_from_the_best_prompt_by_prompt():
    difficulty = np.arange(10.0)
    values = np.stack([difficulty, difficulty + 2.0, difficulty + 1.5])
    fall = fall_from_best(values)
    assert (fall.change.mean, fall.rise, fall.best) == (pytest.approx(0.5), pytest.approx(2.0), 1)


def test_a_fall_counts_from_its_share_of_the_rise():
    values = np.stack([np.zeros(10), np.full(10, 2.0), np.full(10, 1.5)])  # a quarter of the rise
    fall = fall_from_best(values)
    assert (fall.is_at_least(0.24, 0.0), fall.is_at_least(0.26, 0.0), fall.is_at_least(0.1, 0.6)) == (
        True,
        False,
        False,
    )


def test_choosing_the_best_on_other_prompts_takes_the_luck_out_of_the_best():
    # Nothing differs but noise. The highest of 15 means is too high by 1.7 standard errors; the fall is not.
    rng = np.random.default_rng(3)
    falls, naive = [], []
    for _ in range(150):
        values = rng.normal(size=(16, 30))
        means = values.mean(axis=1)
        naive.append(means[:-1].max() - means[-1])
        falls.append(fall_from_best(values).change.mean)
    standard_error = 30**-0.5
    assert np.mean(naive) > 1.5 * standard_error
    assert abs(np.mean(falls)) < 0.2 * standard_error


def test_repeated_looks_at_noise_err_no_more_often_than_they_may():
    rng = np.random.default_rng(4)
    n_runs, n_wrong = 200, 0
    for _ in range(n_runs):
        values = rng.normal(size=(12, 24))
        looks = range(1, 12)
        n_wrong += any(fall_from_best(values[: look + 1]).change.p_value <= spent(0.1, look, 10) for look in looks)
    assert n_wrong / n_runs <= 0.1
