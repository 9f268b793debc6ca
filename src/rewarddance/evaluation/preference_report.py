"""The figures of an evaluation on comparisons, and their JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rewarddance.core.types import JudgementCost, Status
from rewarddance.metrics.bootstrap import Interval
from rewarddance.metrics.calibration import ReliabilityBin


@dataclass(frozen=True, slots=True)
class OrderReport:
    """What each order gives, and how much it matters; over the comparisons of a group.

    Attributes:
        accuracy_forward: Accuracy with the media as stored.
        accuracy_backward: Accuracy with the media swapped.
        accuracy_mean: Mean of the two: what a single question is worth, whatever the order.
        share_inconsistent: Share of comparisons whose choice depends on the order, one question each.
        share_inconsistent_two_orders: The same when each choice is made from both orders; what is left is 0 because
            ½(forward - backward) changes its sign exactly.
        mean_order_gap: Mean |score(a vs b) - (1 - score(b vs a))|.
        share_second: Share of questions answered with the second slot; one half without bias.
        mean_slot_log_odds: Log-odds that the slot alone adds to the second medium; 0 without bias.
    """

    accuracy_forward: Interval | None
    accuracy_backward: Interval | None
    accuracy_mean: Interval | None
    share_inconsistent: Interval | None
    share_inconsistent_two_orders: float
    mean_order_gap: float
    share_second: float
    mean_slot_log_odds: float


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """Whether scores mean what they say, over judged comparisons without ties.

    Attributes:
        n: Number of comparisons.
        ece: Expected calibration error in bins of equal mass.
        ece_equal_width: The same in bins of equal width.
        brier: Brier score; 0.25 for a judge that always says one half.
        temperature: What the log-odds are best divided by; above 1 for a judge that is too sure.
        curve: Reliability curve in bins of equal mass.
    """

    n: int
    ece: float
    ece_equal_width: float
    brier: float
    temperature: float
    curve: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class GoldReport:
    """Against the true preference instead of people's noisy choices; lab only.

    Attributes:
        min_difference: Only comparisons whose gold differs by at least this much.
        n: Number of comparisons.
        accuracy: Share with the truly better medium chosen; failures are wrong.
        accuracy_mean_orders: The same from a single question, mean over orders; None when one order was asked.
        share_inconsistent: Share of these whose choice depends on the order; None likewise.
    """

    min_difference: float
    n: int
    accuracy: Interval
    accuracy_mean_orders: Interval | None
    share_inconsistent: Interval | None


@dataclass(frozen=True, slots=True)
class GroupReport:
    """Figures over the comparisons of one group.

    Attributes:
        n: Number of comparisons.
        n_judged: How many of them people judged, ties included.
        n_ties: How many of them people called a tie.
        n_failed: How many the model failed on, in either order.
        n_undecided: How many got log-odds of exactly 0; each earns one half in accuracy.
        accuracy: The headline: ties dropped, failures wrong. None when there is nothing but ties.
        agreement: Ties counted, failures wrong. None when people judged nothing.
        orders: Order by order; None when one order was asked.
        calibration: None when nothing was judged both by people and by the model.
        gold: Against the true preference, one entry a smallest difference.
        gold_spearman: Rank correlation of log-odds and gold differences.
    """

    n: int
    n_judged: int
    n_ties: int
    n_failed: int
    n_undecided: int
    accuracy: Interval | None
    agreement: Interval | None
    orders: OrderReport | None
    calibration: CalibrationReport | None
    gold: tuple[GoldReport, ...] = ()
    gold_spearman: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A comparison without a usable judgement."""

    id: str
    status: Status
    message: str | None


@dataclass(frozen=True, slots=True)
class PreferenceReport:
    """A model measured on comparisons.

    Attributes:
        order_mode: `two` when the headline is made from both orders, `one` when only the stored order was asked.
        overall: All comparisons.
        dimensions: Against people's choice in one dimension, by dimension. The model's answers are the same ones.
        facets: By facet and value: `{"source": {...}, "split": {...}}`.
        tie_thresholds: Log-odds up to which a judgement is a tie: the given one, or one for each fold,
            fitted on the prompts of the other folds.
        mean_leaked_mass: Probability that the model puts outside yes and no; None when it does not tell.
        failures: Every comparison that failed, in either order.
        seed: Seed of bootstrap and folds.
        resamples: Number of bootstrap draws.
        cost: What all answers took, those of earlier, interrupted evaluations included; None where none is known.
    """

    order_mode: str
    overall: GroupReport
    dimensions: Mapping[str, GroupReport]
    facets: Mapping[str, Mapping[str, GroupReport]]
    tie_thresholds: tuple[float, ...]
    mean_leaked_mass: float | None
    failures: tuple[Failure, ...]
    seed: int
    resamples: int
    cost: JudgementCost | None = None

    @property
    def failed_share(self) -> float:
        """Share of comparisons that failed, in [0, 1]."""
        return self.overall.n_failed / self.overall.n

    def to_json(self) -> dict[str, Any]:
        """Plain values; a figure that is not defined is None."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain


def without_nan(value: Any) -> Any:
    """The same nested value with None for every number that is not finite, lists for tuples."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
