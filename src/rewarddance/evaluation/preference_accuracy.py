"""Measure a reward model on comparisons: accuracy, agreement, position bias, calibration.

Policy: each comparison is asked once in either order, as two single questions, and the two-order judgement is
½(forward - backward) of the same answers. A comparison that failed in either order counts as wrong and is listed.
Formulas are in `rewarddance.metrics`; `docs/metrics.md` explains every figure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from rewarddance.core.seeding import numpy_rng
from rewarddance.core.types import Choice, Comparison, JudgementCost
from rewarddance.evaluation.asking import Judge, Known, Orders, judge_comparisons
from rewarddance.evaluation.judgement_rows import Answer, JudgementRow
from rewarddance.evaluation.preference_report import (
    CalibrationReport,
    Failure,
    GoldReport,
    GroupReport,
    OrderReport,
    PreferenceReport,
)
from rewarddance.metrics.agreement import correctness, cross_fitted_thresholds, tie_matches
from rewarddance.metrics.bootstrap import Interval, bootstrap_share
from rewarddance.metrics.calibration import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
)
from rewarddance.metrics.position_bias import inconsistency, position_bias, two_order_log_odds
from rewarddance.metrics.ranking import spearman

_TARGETS: dict[Choice, float] = {"first": 0.0, "second": 1.0, "tie": 0.5}


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """How answers become figures.

    Attributes:
        tie_threshold: Log-odds up to which a judgement is a tie; None fits it, each half of the prompts on the other.
        min_gold_differences: Smallest gold differences to report on, when gold is known.
        resamples: Number of bootstrap draws.
        level: Share of intervals that are to hold the true value.
        bins: Bins of the reliability curve.
        seed: Seed of bootstrap and folds.
    """

    tie_threshold: float | None = None
    min_gold_differences: tuple[float, ...] = (0.0, 0.1)
    resamples: int = 2000
    level: float = 0.95
    bins: int = 10
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Columns:
    """Rows as arrays; NaN where an answer failed or a value is unknown."""

    clusters: Int[ndarray, " comparisons"]
    targets: Float[ndarray, " comparisons"]
    gold: Float[ndarray, " comparisons"]
    forward: Float[ndarray, " comparisons"]
    backward: Float[ndarray, " comparisons"] | None
    thresholds: Float[ndarray, " comparisons"]

    @property
    def log_odds(self) -> Float[ndarray, " comparisons"]:
        return self.forward if self.backward is None else two_order_log_odds(self.forward, self.backward)

    def where(self, chosen: Bool[ndarray, " comparisons"]) -> "_Columns":
        backward = None if self.backward is None else self.backward[chosen]
        columns = (self.clusters, self.targets, self.gold, self.forward)
        clusters, targets, gold, forward = (column[chosen] for column in columns)
        return _Columns(clusters, targets, gold, forward, backward, self.thresholds[chosen])


def evaluate(
    model: Judge,
    comparisons: Sequence[Comparison],
    *,
    gold: Sequence[float | None] | None = None,
    facets: Mapping[str, Sequence[str | None]] | None = None,
    orders: Orders = "both",
    settings: ReportSettings = ReportSettings(),
    rows_path: Path | None = None,
    fingerprint: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> PreferenceReport:
    """Ask a model about comparisons and report how good its choices are.

    Args:
        model: What is measured.
        comparisons: With unique ids, in any order.
        gold: True preference of each comparison, second minus first; lab only.
        facets: Values by which to report separately, such as `{"split": ["test", ...]}`; `source` is always added.
        orders: Both orders, or only the stored one.
        settings: How answers become figures.
        rows_path: Where answers are kept as they come, and read from when the evaluation is continued.
        fingerprint: What identifies the model in that file.
        on_progress: Called with the number of comparisons that are done, and of all.

    Returns:
        The report. Failures are in it, not raised.

    Raises:
        DataError: No comparisons, or two with the same id.
        UsageError: Gold or a facet has another length than the comparisons.
    """
    rows = judge_comparisons(
        model,
        comparisons,
        Known(gold, facets or {}),
        orders=orders,
        rows_path=rows_path,
        fingerprint=fingerprint,
        on_progress=on_progress,
    )
    return summarise(rows, settings)


def summarise(rows: Sequence[JudgementRow], settings: ReportSettings = ReportSettings()) -> PreferenceReport:
    """Make the report from stored answers, without a model.

    Args:
        rows: At least one; all asked in the same orders.
        settings: How answers become figures.
    """
    columns = _columns(rows, settings, [row.target for row in rows])
    answers = [answer for row in rows for answer in (row.forward, row.backward) if answer is not None]
    leaked = [answer.leaked_mass for answer in answers if answer.leaked_mass is not None]
    failed = [(row.id, row.failed_answer) for row in rows]
    return PreferenceReport(
        order_mode="one" if columns.backward is None else "two",
        overall=_group(columns, settings, "overall"),
        dimensions=_by_dimension(rows, settings),
        facets=_by_facet(rows, columns, settings),
        tie_thresholds=tuple(float(value) for value in np.unique(columns.thresholds)),
        mean_leaked_mass=float(np.mean(leaked)) if leaked else None,
        failures=tuple(Failure(name, answer.status, answer.message) for name, answer in failed if answer is not None),
        seed=settings.seed,
        resamples=settings.resamples,
        cost=sum(costs, JudgementCost()) if (costs := [row.cost for row in rows if row.cost is not None]) else None,
    )


def _columns(rows: Sequence[JudgementRow], settings: ReportSettings, known_targets: Sequence[float | None]) -> _Columns:
    _, clusters = np.unique([row.cluster for row in rows], return_inverse=True)
    targets = _floats(known_targets)
    forward = _floats([row.forward.log_odds for row in rows])
    backward = None
    if any(row.backward is not None for row in rows):
        backward = _floats([_log_odds(row.backward) for row in rows])
    thresholds = np.full(len(rows), settings.tie_threshold or 0.0)
    if settings.tie_threshold is None:
        log_odds = forward if backward is None else two_order_log_odds(forward, backward)
        thresholds = cross_fitted_thresholds(log_odds, targets, clusters, numpy_rng(settings.seed, "folds")).thresholds
    gold = _floats([row.gold for row in rows])
    return _Columns(clusters, targets, gold, forward, backward, thresholds)


def _by_dimension(rows: Sequence[JudgementRow], settings: ReportSettings) -> dict[str, GroupReport]:
    reports = {}
    for name in sorted({name for row in rows for name in row.dimensions}):
        judged = [row for row in rows if name in row.dimensions]
        columns = _columns(judged, settings, [_TARGETS[row.dimensions[name]] for row in judged])
        columns = replace(columns, gold=np.full(len(judged), np.nan))  # gold is about the whole, not one dimension
        reports[name] = _group(columns, settings, f"dimension {name}")
    return reports


def _by_facet(
    rows: Sequence[JudgementRow], columns: _Columns, settings: ReportSettings
) -> dict[str, dict[str, GroupReport]]:
    reports: dict[str, dict[str, GroupReport]] = {}
    for name in sorted({name for row in rows for name in row.facets}):
        values = np.array([row.facets.get(name, "") for row in rows])
        has_value = np.array([name in row.facets for row in rows])
        reports[name] = {
            str(value): _group(columns.where(has_value & (values == value)), settings, f"{name} {value}")
            for value in np.unique(values[has_value])
        }
    return reports


def _group(columns: _Columns, settings: ReportSettings, name: str) -> GroupReport:
    log_odds, targets = columns.log_odds, columns.targets
    known = columns.gold[~np.isnan(columns.gold) & ~np.isnan(log_odds)]
    return GroupReport(
        n=len(targets),
        n_judged=int((~np.isnan(targets)).sum()),
        n_ties=int((targets == 0.5).sum()),
        n_failed=int(np.isnan(log_odds).sum()),
        n_undecided=int((log_odds == 0).sum()),
        accuracy=_share(correctness(log_odds, targets), columns, settings, name),
        agreement=_share(tie_matches(log_odds, targets, columns.thresholds), columns, settings, name),
        orders=_orders(columns, settings, name),
        calibration=_calibration(log_odds, targets, settings.bins),
        gold=_gold(columns, settings, name),
        gold_spearman=spearman(log_odds[~np.isnan(columns.gold) & ~np.isnan(log_odds)], known),
    )


def _orders(columns: _Columns, settings: ReportSettings, name: str) -> OrderReport | None:
    forward, backward, targets = columns.forward, columns.backward, columns.targets
    if backward is None:
        return None
    in_stored_order, in_swapped_order = correctness(forward, targets), correctness(-backward, targets)
    both = columns.log_odds
    bias = position_bias(forward, backward)
    return OrderReport(
        accuracy_forward=_share(in_stored_order, columns, settings, name),
        accuracy_backward=_share(in_swapped_order, columns, settings, name),
        accuracy_mean=_share((in_stored_order + in_swapped_order) / 2, columns, settings, name),
        share_inconsistent=_share(inconsistency(forward, backward), columns, settings, name),
        share_inconsistent_two_orders=position_bias(both, two_order_log_odds(backward, forward)).share_inconsistent,
        mean_order_gap=bias.mean_order_gap,
        share_second=bias.share_second,
        mean_slot_log_odds=bias.mean_slot_log_odds,
    )


def _calibration(
    log_odds: Float[ndarray, " comparisons"], targets: Float[ndarray, " comparisons"], bins: int
) -> CalibrationReport | None:
    is_usable = ~(np.isnan(log_odds) | np.isnan(targets) | (targets == 0.5))
    if not is_usable.any():
        return None
    log_odds, targets = log_odds[is_usable], targets[is_usable]
    scores = 0.5 * (1 + np.tanh(0.5 * log_odds))
    curve = reliability_curve(scores, targets, bins)
    return CalibrationReport(
        n=len(scores),
        ece=expected_calibration_error(curve),
        ece_equal_width=expected_calibration_error(reliability_curve(scores, targets, bins, "equal_width")),
        brier=brier_score(scores, targets),
        temperature=fit_temperature(log_odds, targets),
        curve=curve,
    )


def _gold(columns: _Columns, settings: ReportSettings, name: str) -> tuple[GoldReport, ...]:
    reports = []
    for smallest in settings.min_gold_differences:
        part = columns.where(np.abs(columns.gold) >= smallest)
        preferred = 0.5 + 0.5 * np.sign(part.gold)
        accuracy = _share(correctness(part.log_odds, preferred), part, settings, name)
        if accuracy is None:
            continue
        one_order, inconsistent = None, None
        if part.backward is not None:
            forward, backward = correctness(part.forward, preferred), correctness(-part.backward, preferred)
            one_order = _share((forward + backward) / 2, part, settings, name)
            inconsistent = _share(inconsistency(part.forward, part.backward), part, settings, name)
        reports.append(GoldReport(smallest, accuracy.n, accuracy, one_order, inconsistent))
    return tuple(reports)


def _share(
    values: Float[ndarray, " comparisons"], columns: _Columns, settings: ReportSettings, name: str
) -> Interval | None:
    if np.isnan(values).all():
        return None
    rng = numpy_rng(settings.seed, "bootstrap", name)
    return bootstrap_share(values, columns.clusters, rng, resamples=settings.resamples, level=settings.level)


def _floats(values: Sequence[float | None]) -> Float[ndarray, " comparisons"]:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _log_odds(answer: Answer | None) -> float | None:
    return None if answer is None else answer.log_odds
