import json
from dataclasses import replace

import numpy as np
import pytest

from rewarddance.core.types import Comparison, Status
from rewarddance.evaluation.preference_accuracy import ReportSettings, evaluate
from tests.evaluation.judges import TableJudge, comparison

QUALITY = {"good": 2.0, "fair": 1.0, "poor": 0.0, "same": 0.0}
COMPARISONS = [
    comparison("right", "poor", "good", "second"),
    comparison("wrong", "good", "fair", "second"),
    comparison("tie", "poor", "same", "tie"),
    comparison("failed", "poor", "broken", "second"),
]
QUICK = ReportSettings(tie_threshold=0.5, resamples=200)


def many(count: int, seed: int) -> tuple[list[Comparison], TableJudge]:
    """Comparisons of random qualities; people choose by Bradley-Terry on the judge's own quality."""
    rng = np.random.default_rng(seed)
    quality = {f"m{index}": float(value) for index, value in enumerate(rng.normal(scale=1.5, size=2 * count))}
    comparisons = []
    for index in range(count):
        first, second = f"m{2 * index}", f"m{2 * index + 1}"
        chooses_second = rng.logistic() < quality[second] - quality[first]
        comparisons.append(comparison(f"c{index}", first, second, "second" if chooses_second else "first"))
    return comparisons, TableJudge(quality)


def test_headline_drops_ties_and_counts_failures_as_wrong() -> None:
    report = evaluate(TableJudge(QUALITY), COMPARISONS, settings=QUICK)
    assert report.overall.accuracy.estimate == pytest.approx(1 / 3)  # right, wrong, failed
    assert report.overall.agreement.estimate == pytest.approx(2 / 4)  # right, wrong, tie, failed
    assert (report.overall.n, report.overall.n_ties, report.overall.n_failed) == (4, 1, 1)


def test_failures_are_listed_with_their_status() -> None:
    report = evaluate(TableJudge(QUALITY), COMPARISONS, settings=QUICK)
    assert [(failure.id, failure.status) for failure in report.failures] == [("failed", Status.UNREADABLE_MEDIA)]
    assert report.failed_share == 0.25


def test_two_orders_remove_a_slot_bias_that_one_order_shows() -> None:
    # Gaps are 1 and 2; a bias of 1.5 towards the second slot turns every gap of 1 in one order.
    comparisons = [
        comparison("a", "fair", "good", "second"),
        comparison("b", "good", "fair", "first"),
        comparison("c", "poor", "good", "second"),
        comparison("d", "good", "poor", "first"),
    ]
    report = evaluate(TableJudge(QUALITY, slot_log_odds=1.5), comparisons, settings=QUICK)
    orders = report.overall.orders
    assert report.order_mode == "two"
    assert report.overall.accuracy.estimate == 1.0
    # forward log-odds: 1 + 1.5 right, -1 + 1.5 wrong, 2 + 1.5 right, -2 + 1.5 right
    assert orders.accuracy_forward.estimate == 0.75
    # backward, second slot: -1 + 1.5 wrong, 1 + 1.5 right, right, right
    assert orders.accuracy_backward.estimate == 0.75
    assert orders.accuracy_mean.estimate == 0.75
    assert orders.share_inconsistent.estimate == 0.5
    assert orders.share_inconsistent_two_orders == 0.0
    assert orders.share_second == 6 / 8
    assert orders.mean_slot_log_odds == pytest.approx(1.5)


def test_one_order_has_no_order_report() -> None:
    report = evaluate(TableJudge(QUALITY, slot_log_odds=9.0), COMPARISONS, orders="as_stored", settings=QUICK)
    assert (report.order_mode, report.overall.orders) == ("one", None)
    assert report.overall.accuracy.estimate == pytest.approx(2 / 3)  # always "second", one of three failed


def test_swapping_every_comparison_changes_no_two_order_figure() -> None:
    comparisons, judge = many(60, seed=0)
    judge.slot_log_odds = 0.7
    plain = evaluate(judge, comparisons, settings=QUICK).overall
    swapped = evaluate(judge, [item.swapped() for item in comparisons], settings=QUICK).overall
    assert plain.accuracy == swapped.accuracy
    assert plain.orders.accuracy_forward == swapped.orders.accuracy_backward
    assert plain.orders.share_inconsistent == swapped.orders.share_inconsistent


def test_a_judge_that_knows_the_odds_is_calibrated() -> None:
    comparisons, judge = many(1000, seed=1)
    calibration = evaluate(judge, comparisons, settings=QUICK).overall.calibration
    assert calibration.ece < 0.05
    assert calibration.temperature == pytest.approx(1.0, abs=0.2)
    assert sum(part.count for part in calibration.curve) == 1000


def test_gold_replaces_choices_and_leaves_small_differences_out() -> None:
    comparisons = [
        comparison("a", "poor", "good", "first"),
        comparison("b", "good", "fair", "second"),
        comparison("c", "poor", "fair", "second"),
    ]
    # the judge says second, first, second; gold says second, first, and (barely) first
    report = evaluate(TableJudge(QUALITY), comparisons, gold=[0.5, -0.3, -0.05], settings=QUICK)
    everything, clear = report.overall.gold
    assert (everything.n, everything.accuracy.estimate) == (3, pytest.approx(2 / 3))
    assert (clear.min_difference, clear.n, clear.accuracy.estimate) == (0.1, 2, 1.0)
    assert report.overall.accuracy.estimate == pytest.approx(1 / 3)


def test_dimensions_have_their_own_choices() -> None:
    item = replace(COMPARISONS[0], dimensions={"structure": "second", "aesthetics": "first"})
    report = evaluate(TableJudge(QUALITY), [item, COMPARISONS[1]], settings=QUICK)
    assert {name: group.accuracy.estimate for name, group in report.dimensions.items()} == {
        "aesthetics": 0.0,
        "structure": 1.0,
    }


def test_splits_are_reported_apart_and_add_up() -> None:
    comparisons, judge = many(40, seed=2)
    split = ["in_domain"] * 30 + ["out_of_domain"] * 10
    report = evaluate(judge, comparisons, facets={"split": split}, settings=QUICK)
    parts = report.facets["split"]
    assert (parts["in_domain"].n, parts["out_of_domain"].n) == (30, 10)
    together = 0.75 * parts["in_domain"].accuracy.estimate + 0.25 * parts["out_of_domain"].accuracy.estimate
    assert together == pytest.approx(report.overall.accuracy.estimate)


def test_unjudged_comparisons_have_no_accuracy() -> None:
    report = evaluate(TableJudge(QUALITY), [comparison("a", "poor", "good", None)], settings=QUICK)
    assert (report.overall.accuracy, report.overall.agreement, report.overall.n_judged) == (None, None, 0)


def test_a_fitted_tie_threshold_finds_ties() -> None:
    rng = np.random.default_rng(3)
    quality = {f"m{index}": float(value) for index, value in enumerate(rng.normal(size=400))}
    judge = TableJudge(quality)
    comparisons = []
    for index in range(200):
        difference = quality[f"m{2 * index + 1}"] - quality[f"m{2 * index}"]
        choice = "tie" if abs(difference) < 0.6 else "second" if difference > 0 else "first"
        comparisons.append(comparison(f"c{index}", f"m{2 * index}", f"m{2 * index + 1}", choice))
    report = evaluate(judge, comparisons, settings=ReportSettings(resamples=100))
    assert report.overall.agreement.estimate > 0.95
    assert all(0.5 < threshold < 0.7 for threshold in report.tie_thresholds)


def test_the_report_is_plain_json() -> None:
    report = evaluate(TableJudge(QUALITY), [comparison("a", "poor", "broken", "tie")], settings=QUICK)
    assert json.loads(json.dumps(report.to_json(), allow_nan=False)) == report.to_json()


def test_the_same_seed_gives_the_same_report() -> None:
    comparisons, judge = many(30, seed=4)
    assert evaluate(judge, comparisons, settings=QUICK) == evaluate(judge, comparisons, settings=QUICK)


def test_leaked_mass_is_averaged_over_questions_that_were_answered() -> None:
    assert evaluate(TableJudge(QUALITY), COMPARISONS, settings=QUICK).mean_leaked_mass == 0.25
