import numpy as np
import pytest

from rewarddance.metrics.bootstrap import (
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_share,
    mcnemar_exact,
    paired_difference,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_estimate_is_the_plain_mean_of_known_values() -> None:
    interval = bootstrap_mean(np.array([1.0, 0.0, np.nan, 1.0]), np.array([0, 0, 1, 2]), rng())
    assert (interval.estimate, interval.n, interval.n_clusters) == (pytest.approx(2 / 3), 3, 2)


def test_the_same_seed_gives_the_same_interval() -> None:
    values, clusters = rng(1).normal(size=30), np.arange(30)
    assert bootstrap_mean(values, clusters, rng(5)) == bootstrap_mean(values, clusters, rng(5))


def test_two_clusters_of_zeros_and_ones_resample_to_three_means() -> None:
    # draws are {00, 01, 10, 11}: means 0 (1/4), 0.5 (1/2), 1 (1/4); 40 % of the draws lie within [0.5, 0.5]
    values, clusters = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1])
    narrow = bootstrap_mean(values, clusters, rng(), level=0.4)
    wide = bootstrap_mean(values, clusters, rng(), level=0.95)
    assert (narrow.low, narrow.high, wide.low, wide.high) == (0.5, 0.5, 0.0, 1.0)


def test_repeating_comparisons_of_a_prompt_does_not_narrow_the_interval() -> None:
    values = rng(2).normal(size=40)
    once = bootstrap_mean(values, np.arange(40), rng(0))
    repeated = bootstrap_mean(np.repeat(values, 10), np.repeat(np.arange(40), 10), rng(0))
    assert (repeated.low, repeated.high) == (pytest.approx(once.low), pytest.approx(once.high))


def test_one_cluster_gives_no_interval() -> None:
    interval = bootstrap_mean(np.array([1.0, 0.0]), np.array([3, 3]), rng())
    assert (interval.estimate, interval.low, interval.high) == (0.5, None, None)


def test_nothing_known_is_an_error() -> None:
    with pytest.raises(ValueError, match="no value to average"):
        bootstrap_mean(np.array([np.nan]), np.array([0]), rng())


def test_interval_has_the_width_of_the_normal_one() -> None:
    values = rng(3).normal(size=400)
    interval = bootstrap_mean(values, np.arange(400), rng())
    standard_error = values.std() / 20  # sqrt(400)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.06)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_cover_the_truth_as_often_as_they_say(method: str) -> None:
    draws, covered = rng(11), 0
    for trial in range(300):
        ability = draws.normal(0.8, 1.0, size=40)  # prompts differ, so comparisons of one prompt are alike
        values = (draws.logistic(size=(40, 5)) < ability[:, None]).astype(float).ravel()
        clusters = np.repeat(np.arange(40), 5)
        interval = bootstrap_mean(values, clusters, rng(trial), resamples=400, method=method)
        covered += interval.low <= 0.6601 <= interval.high  # E[sigmoid(N(0.8, 1))], by quadrature
    assert 0.90 <= covered / 300 <= 0.98


def test_ignoring_clusters_would_cover_too_seldom() -> None:
    draws, covered = rng(12), 0
    for trial in range(200):
        ability = draws.normal(0.8, 3.0, size=20)
        values = (draws.logistic(size=(20, 20)) < ability[:, None]).astype(float).ravel()
        interval = bootstrap_mean(values, np.arange(400), rng(trial), resamples=300)
        covered += interval.low <= 0.5911 <= interval.high  # E[sigmoid(N(0.8, 3))], by quadrature
    assert covered / 200 < 0.75


def test_bca_follows_a_skewed_mean() -> None:
    values = np.concatenate([np.zeros(25), [5.0, 9.0, 20.0]])
    plain = bootstrap_mean(values, np.arange(28), rng(), method="percentile")
    corrected = bootstrap_mean(values, np.arange(28), rng(), method="bca")
    assert corrected.low > plain.low
    assert corrected.high > plain.high


def test_a_perfect_share_still_has_an_interval() -> None:
    # 20 of 20: low = 0.025^(1/20) = 0.8316
    interval = bootstrap_share(np.ones(20), np.arange(20), rng())
    assert (interval.low, interval.high) == (pytest.approx(0.8316, abs=1e-4), 1.0)


def test_a_share_of_zero_is_the_mirror_image() -> None:
    interval = bootstrap_share(np.zeros(20), np.arange(20), rng())
    assert (interval.low, interval.high) == (0.0, pytest.approx(1 - 0.8316, abs=1e-4))


def test_equal_models_do_not_differ() -> None:
    values = rng(4).integers(2, size=50).astype(float)
    difference = paired_difference(values, values, np.arange(50), rng())
    assert (difference.interval.estimate, difference.p_value, difference.mcnemar_p_value) == (0.0, 1.0, 1.0)


def test_a_clearly_better_model_is_found_and_has_the_positive_sign() -> None:
    first = np.tile([1.0, 0.0], 40)
    second = np.where(np.arange(80) < 60, 1.0, first)
    difference = paired_difference(first, second, np.arange(80), rng())
    # 30 comparisons only the second gets right: 30 / 80
    assert difference.interval.estimate == pytest.approx(0.375)
    assert (difference.n_first_only, difference.n_second_only) == (0, 30)
    assert difference.interval.low > 0.2
    assert difference.p_value < 0.001


def test_sign_flips_match_all_swaps_counted_by_hand() -> None:
    # cluster sums 1, 1, 1: of 8 swaps only +++ and --- reach |3|, so p = 1/4
    difference = paired_difference(np.zeros(3), np.ones(3), np.arange(3), rng(), resamples=20_000)
    assert difference.p_value == pytest.approx(0.25, abs=0.01)


def test_p_values_of_equal_models_are_uniform() -> None:
    draws = rng(6)
    p_values = [
        paired_difference(draws.random(30), draws.random(30), np.arange(30) // 2, draws, resamples=200).p_value
        for _ in range(300)
    ]
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.05)


def test_mcnemar_is_the_binomial_test() -> None:
    # 1 against 7: 2 * (C(8,0) + C(8,1)) / 2^8 = 18 / 256
    assert mcnemar_exact(1, 7) == pytest.approx(18 / 256)
    assert mcnemar_exact(0, 0) == 1.0


def test_a_ratio_that_is_the_same_in_every_cluster_has_no_width() -> None:
    gains = np.array([1.0, 0.0, 2.0, 1.0, np.nan])
    interval = bootstrap_ratio(0.8 * gains, gains, np.arange(5), rng())
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.8, 0.8, 0.8))
    assert (interval.n, interval.n_clusters) == (4, 4)


def test_a_ratio_is_of_means_and_not_a_mean_of_ratios() -> None:
    # (1 + 1) / (1 + 3) = 0.5; the mean of 1/1 and 1/3 would be 0.667
    assert bootstrap_ratio(np.array([1.0, 1.0]), np.array([1.0, 3.0]), np.arange(2), rng()).estimate == 0.5


def test_a_ratio_to_a_gain_that_may_be_none_has_no_interval() -> None:
    gains = np.tile([1.0, -0.9], 10)
    interval = bootstrap_ratio(np.ones(20), gains, np.arange(20), rng())
    assert (interval.low, interval.high) == (None, None)
