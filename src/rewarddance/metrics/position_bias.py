"""What changes when the same two media are shown in the other order.

`forward` is the order as stored; `backward` shows the second medium first. Both are log-odds that the medium in the
*second slot* is better, so an unbiased judge has backward = -forward.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewarddance.metrics.agreement import mean_of_known


@dataclass(frozen=True, slots=True)
class PositionBias:
    """How much the order matters, over comparisons.

    Attributes:
        share_inconsistent: Share of comparisons, judged in both orders, whose choice depends on the order; 0 is best.
        mean_order_gap: Mean |score(a vs b) - (1 - score(b vs a))| in [0, 1]; 0 is best.
        share_second: Share of all questions answered with the medium in the second slot; one half without bias.
        mean_slot_log_odds: Mean log-odds that the slot alone adds to the second medium; 0 without bias.
    """

    share_inconsistent: float
    mean_order_gap: float
    share_second: float
    mean_slot_log_odds: float


def two_order_log_odds(
    forward: Float[ndarray, " comparisons"], backward: Float[ndarray, " comparisons"]
) -> Float[ndarray, " comparisons"]:
    r"""Log-odds of both orders put together, antisymmetric by construction.

    $$z = \tfrac12\,(z_\text{forward} - z_\text{backward})$$

    Args:
        forward: Log-odds for the second slot, media as stored.
        backward: Log-odds for the second slot, media swapped.

    Returns:
        Log-odds that the stored second medium is better; NaN where either order failed.
    """
    return np.asarray(0.5 * (forward - backward))


def inconsistency(
    forward: Float[ndarray, " comparisons"], backward: Float[ndarray, " comparisons"]
) -> Float[ndarray, " comparisons"]:
    """Whether the two orders choose different media.

    Args:
        forward: Log-odds for the second slot, media as stored.
        backward: Log-odds for the second slot, media swapped.

    Returns:
        1 or 0 a comparison; NaN where either order failed. Undecided in one order only is inconsistent.
    """
    differs = (np.sign(forward) != -np.sign(backward)).astype(float)
    return np.where(np.isnan(forward) | np.isnan(backward), np.nan, differs)


def order_gap(
    forward: Float[ndarray, " comparisons"], backward: Float[ndarray, " comparisons"]
) -> Float[ndarray, " comparisons"]:
    """|score(a vs b) - (1 - score(b vs a))| of each comparison; NaN where either order failed."""
    return np.asarray(np.abs(_score(forward) - (1 - _score(backward))))


def position_bias(forward: Float[ndarray, " comparisons"], backward: Float[ndarray, " comparisons"]) -> PositionBias:
    """Summarise how much the order matters.

    Args:
        forward: Log-odds for the second slot, media as stored; NaN where the judgement failed.
        backward: Log-odds for the second slot, media swapped.

    Returns:
        The summary; NaN fields when no comparison was judged in both orders.
    """
    answers = np.concatenate([forward, backward])
    took_second = np.where(np.isnan(answers), np.nan, 0.5 + 0.5 * np.sign(answers))
    return PositionBias(
        share_inconsistent=mean_of_known(inconsistency(forward, backward)),
        mean_order_gap=mean_of_known(order_gap(forward, backward)),
        share_second=mean_of_known(took_second),
        mean_slot_log_odds=mean_of_known(0.5 * (forward + backward)),
    )


def _score(log_odds: Float[ndarray, " comparisons"]) -> Float[ndarray, " comparisons"]:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * log_odds)))  # the sigmoid, without overflow
