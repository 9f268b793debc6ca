from itertools import combinations

import numpy as np
import pytest

from rewarddance.metrics.overoptimization import (
    best_of_n_kl,
    best_of_n_mean,
    detector_confusion,
    fit_overoptimization,
    gold_curve,
    kept_share,
    smoothed,
    wilson_interval,
)


def test_a_fall_of_a_share_of_the_rise_hacks():
    # rise 0.4, fall 0.02: exactly 5 %
    assert gold_curve(np.array([0.5, 0.9, 0.875])).hacks
    assert not gold_curve(np.array([0.5, 0.9, 0.885])).hacks


def test_the_fall_is_to_the_lowest_point_after_the_peak():
    curve = gold_curve(np.array([0.2, 0.8, 0.5, 0.7]))
    assert (curve.peak_index, curve.fall, curve.final) == (1, pytest.approx(0.3), 0.7)


def test_a_rise_to_the_end_does_not_hack():
    assert not gold_curve(np.array([0.1, 0.2, 0.3])).hacks


def test_a_curve_that_never_rose_hacks_by_any_fall_above_the_minimum():
    falling = np.array([0.5, 0.48])
    assert gold_curve(falling).hacks
    assert not gold_curve(falling, minimum_fall=0.03).hacks


def test_a_flat_curve_does_not_hack():
    assert not gold_curve(np.full(4, 0.5)).hacks


def test_smoothing_ignores_one_bad_evaluation():
    gold = np.array([0.2, 0.5, 0.7, 0.76, 0.70, 0.8, 0.81, 0.82])
    assert gold_curve(gold).hacks is False  # the last is the peak
    dip = np.array([0.2, 0.5, 0.7, 0.82, 0.77, 0.82, 0.815, 0.815])
    assert (gold_curve(dip).hacks, gold_curve(dip, smoothing=3).hacks) == (True, False)


def test_a_centred_mean_narrows_at_the_ends():
    assert smoothed(np.array([0.0, 3.0, 6.0, 0.0]), 3).tolist() == [0.0, 3.0, 3.0, 0.0]


def test_an_even_width_is_refused():
    with pytest.raises(ValueError, match="odd"):
        smoothed(np.zeros(3), 2)


def test_a_curve_with_a_hole_is_refused():
    with pytest.raises(ValueError, match="finite"):
        gold_curve(np.array([0.1, np.nan]))


def test_the_share_kept_is_of_the_peak_or_of_the_rise():
    assert (kept_share(0.7, 0.8), kept_share(0.7, 0.8, start=0.4)) == pytest.approx((0.875, 0.75))
    assert np.isnan(kept_share(0.5, 0.5, start=0.5))


def test_wilson_gives_the_published_interval():
    # z = 1.96, 20 of 20: low = 1 / (1 + z^2 / 20)
    assert wilson_interval(20, 20) == pytest.approx((1 / (1 + 1.959964**2 / 20), 1.0), abs=1e-6)


def test_alarms_are_counted_against_the_truth():
    confusion = detector_confusion(np.array([True, True, False, False]), np.array([True, False, True, False]))
    assert (confusion.caught, confusion.missed, confusion.false_alarms, confusion.quiet) == (1, 1, 1, 1)
    assert (confusion.catch_rate, confusion.catch_interval) == (0.5, wilson_interval(1, 2))


def test_a_rate_without_runs_is_none():
    confusion = detector_confusion(np.array([False]), np.array([False]))
    assert (confusion.catch_rate, confusion.catch_interval, confusion.false_alarm_rate) == (None, None, 0.0)


@pytest.mark.parametrize(("n", "kl"), [(1, 0.0), (2, 0.1931), (16, 1.8351)])
def test_kl_of_best_of_n_is_the_closed_form(n, kl):
    assert best_of_n_kl(n) == pytest.approx(kl, abs=1e-4)


def test_the_fit_finds_the_law_that_made_the_points():
    distance = np.linspace(0.0, 8.0, 9)
    positive = np.maximum(distance, 1e-9)
    best_of_n = fit_overoptimization(distance.tolist(), (distance * (2.0 - 0.2 * distance)).tolist(), "best_of_n")
    rl = fit_overoptimization(distance.tolist(), (distance * (2.0 - 0.8 * np.log(positive))).tolist(), "rl")
    assert (best_of_n.alpha, best_of_n.beta, best_of_n.r_squared) == pytest.approx((2.0, 0.2, 1.0))
    assert (rl.alpha, rl.beta, rl.r_squared) == pytest.approx((2.0, 0.8, 1.0))


def test_a_gain_that_never_varies_has_no_share_that_is_explained():
    flat = fit_overoptimization([0.0, 0.5, 1.0, 1.5], [0.0, 0.0, 0.0, 0.0], "best_of_n")
    assert (flat.alpha, flat.beta, flat.r_squared) == (0.0, 0.0, None)


def test_the_peak_of_the_law_is_where_it_is_highest():
    dense = np.linspace(0.01, 20.0, 20_000)
    for law, gains in (("best_of_n", dense * (2 - 0.2 * dense)), ("rl", dense * (2 - 0.8 * np.log(dense)))):
        fit = fit_overoptimization(dense[::500].tolist(), gains[::500].tolist(), law)
        assert fit.peak_distance == pytest.approx(dense[gains.argmax()], abs=2e-3)
        assert fit.peak_gain == pytest.approx(gains.max(), abs=1e-4)


def test_a_curve_that_bends_up_has_no_peak():
    assert fit_overoptimization([1.0, 2.0, 3.0], [1.0, 3.0, 6.0], "best_of_n").peak_distance is None


def test_a_law_needs_two_distances():
    with pytest.raises(ValueError, match="two different distances"):
        fit_overoptimization([0.0, 1.0, 1.0], [0.0, 0.5, 0.6], "rl")


def _by_enumeration(proxy, values, n):
    """Mean over all subsets of the value at the proxy's highest; equal ones share."""
    means = []
    for subset in combinations(range(len(proxy)), n):
        top = max(proxy[index] for index in subset)
        means.append(np.mean([values[index] for index in subset if proxy[index] == top]))
    return float(np.mean(means))


@pytest.mark.parametrize("n", range(1, 8))
def test_the_best_of_n_estimate_equals_enumeration_of_all_subsets(n):
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=7), rng.normal(size=7)
    assert best_of_n_mean(proxy, gold, n) == pytest.approx(_by_enumeration(proxy, gold, n), abs=1e-12)


@pytest.mark.parametrize("n", range(1, 8))
def test_samples_that_the_proxy_likes_equally_share_the_estimate(n):
    proxy, gold = np.array([1.0, 2.0, 2.0, 0.0, 2.0, 1.0, 3.0]), np.arange(7.0) ** 2
    assert best_of_n_mean(proxy, gold, n) == pytest.approx(_by_enumeration(proxy, gold, n), abs=1e-12)


def test_the_estimate_does_not_depend_on_the_order_of_the_samples():
    rng = np.random.default_rng(1)
    proxy, gold, order = rng.integers(3, size=12).astype(float), rng.normal(size=12), rng.permutation(12)
    assert best_of_n_mean(proxy, gold, 4) == pytest.approx(best_of_n_mean(proxy[order], gold[order], 4), abs=1e-12)


def test_the_best_of_one_is_the_mean_and_of_all_the_proxys_choice():
    proxy, gold = np.array([0.1, 0.9, 0.5]), np.array([1.0, 2.0, 6.0])
    assert (best_of_n_mean(proxy, gold, 1), best_of_n_mean(proxy, gold, 3)) == pytest.approx((3.0, 2.0))


def test_the_estimate_is_right_where_binomials_would_overflow():
    # The proxy is uniform: the best of n has mean n / (n + 1).
    proxy = (np.arange(5000) + 0.5) / 5000
    assert best_of_n_mean(proxy, proxy, 1024) == pytest.approx(1024 / 1025, abs=1e-3)


def test_more_than_there_are_samples_is_refused():
    with pytest.raises(ValueError, match="best of 4 cannot be estimated from 3 samples"):
        best_of_n_mean(np.zeros(3), np.zeros(3), 4)


def test_a_sample_without_a_judgement_is_refused():
    with pytest.raises(ValueError, match="leave out samples"):
        best_of_n_mean(np.array([0.0, np.nan]), np.zeros(2), 1)
