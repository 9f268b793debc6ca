"""Is one model better than another? A paired test on the comparisons that both answered."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewarddance.core.errors import DataError
from rewarddance.core.seeding import numpy_rng
from rewarddance.evaluation.judgement_rows import JudgementRow
from rewarddance.evaluation.preference_report import without_nan
from rewarddance.metrics.agreement import correctness, mean_of_known
from rewarddance.metrics.bootstrap import PairedDifference, paired_difference
from rewarddance.metrics.position_bias import two_order_log_odds


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """Two models on the same comparisons.

    Attributes:
        n: Comparisons with a preference that are in both; failures are wrong.
        accuracy_first: Accuracy of the first model on them.
        accuracy_second: Accuracy of the second model on them.
        difference: Second minus first, with interval and p-values.
    """

    n: int
    accuracy_first: float
    accuracy_second: float
    difference: PairedDifference

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain


def compare_models(
    first: Sequence[JudgementRow],
    second: Sequence[JudgementRow],
    *,
    against: Literal["choice", "gold"] = "choice",
    min_gold_difference: float = 0.0,
    seed: int = 0,
    resamples: int = 2000,
) -> ModelComparison:
    """Compare the accuracy of two models, comparison by comparison.

    Args:
        first: Rows of the first model.
        second: Rows of the second model; matched by id.
        against: People's choices, or the lab's gold.
        min_gold_difference: With gold, only comparisons that differ by at least this much.
        seed: Seed of bootstrap and swaps.
        resamples: Number of bootstrap draws and of swaps.

    Returns:
        A positive difference when the second model is better.

    Raises:
        DataError: No common comparison has a preference, or the two disagree about what people chose.
    """
    of_second = {row.id: row for row in second}
    pairs = [(row, of_second[row.id]) for row in first if row.id in of_second]
    if any((a.target, a.cluster) != (b.target, b.cluster) for a, b in pairs):
        raise DataError(
            "Comparisons with the same id differ between the two evaluations. Evaluate both on one data set."
        )
    values_first = right_choices([row for row, _ in pairs], against, min_gold_difference)
    values_second = right_choices([row for _, row in pairs], against, min_gold_difference)
    if np.isnan(values_first).all():
        raise DataError("The two evaluations share no comparison with a preference. Evaluate both on one data set.")
    _, clusters = np.unique([row.cluster for row, _ in pairs], return_inverse=True)
    rng = numpy_rng(seed, "model comparison")
    return ModelComparison(
        n=int((~np.isnan(values_first)).sum()),
        accuracy_first=mean_of_known(values_first),
        accuracy_second=mean_of_known(values_second),
        difference=paired_difference(values_first, values_second, clusters, rng, resamples=resamples),
    )


def right_choices(
    rows: Sequence[JudgementRow], against: Literal["choice", "gold"] = "choice", min_gold_difference: float = 0.0
) -> Float[ndarray, " comparisons"]:
    """Whether each row's choice is the right one: see `correctness`.

    Args:
        rows: Of one model.
        against: People's choices, or the lab's gold.
        min_gold_difference: With gold, comparisons that differ by less are not a number.
    """
    targets = np.array([_target(row, against, min_gold_difference) for row in rows], dtype=float)
    return correctness(_log_odds(rows), targets)


def _target(row: JudgementRow, against: str, min_gold_difference: float) -> float:
    if against == "choice":
        return np.nan if row.target is None else row.target
    if row.gold is None or abs(row.gold) < min_gold_difference:
        return np.nan
    return 0.5 + 0.5 * float(np.sign(row.gold))


def _log_odds(rows: Sequence[JudgementRow]) -> Float[ndarray, " comparisons"]:
    """The headline log-odds of each row: from both orders where both were asked."""
    forward = np.array([np.nan if row.forward.log_odds is None else row.forward.log_odds for row in rows], dtype=float)
    answers = [row.forward if row.backward is None else row.backward for row in rows]
    backward = np.array([np.nan if answer.log_odds is None else answer.log_odds for answer in answers], dtype=float)
    is_two = np.array([row.backward is not None for row in rows])
    return np.where(is_two, two_order_log_odds(forward, backward), forward)
