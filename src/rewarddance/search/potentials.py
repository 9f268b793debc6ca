r"""Feynman-Kac weights: how strongly particles are favoured for their rewards on the way, exactly so at the end.

After every look $t = 1, \dots, T$ with rewards $r_t$, a particle has weight $G_t$; resampling by it is paid back later,
so that the product of all factors is always $\exp(\lambda r_T)$, whatever happened on the way:

- `difference`: $G_t = \exp(\lambda (r_t - r_{t-1}))$ with $r_0 = 0$;
- `max`: $G_t = \exp(\lambda \max_{s \le t} r_s)$;
- `sum`: $G_t = \exp(\lambda \sum_{s \le t} r_s)$;

and for the last two $G_T = \exp(\lambda r_T) / \prod_{t<T} G_t$.

Source:
    Feynman-Kac steering, arXiv:2501.06848, section 4.1.
    Differs: systematic instead of multinomial resampling, which adds less noise (Douc, Cappe and Moulines, 2005,
    arXiv:cs/0507025); a particle without a reward has no weight at the looks where it has none.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

Potential = Literal["difference", "max", "sum"]


def log_weights(
    history: Float[ndarray, "looks particles"], potential: Potential, strength: float, is_last: bool
) -> Float[ndarray, " particles"]:
    """Logarithm of the weight of each particle at the latest look.

    Args:
        history: Rewards of each particle and of those that it was copied from, a row a look, the latest last; NaN
            where there was none.
        potential: How rewards on the way count.
        strength: Lambda, above 0: what one unit of log-odds is worth.
        is_last: Whether the pictures are finished.

    Returns:
        Minus infinity for a particle without a reward now; an earlier look without one is left out.
    """
    now = history[-1]
    if potential == "difference":
        before = np.zeros_like(now)
        for row in history[:-1]:
            before = np.where(np.isnan(row), before, row)
        weights = strength * (now - before)
    elif is_last:
        past = [_running(history[:look], potential) for look in range(1, len(history))]
        known = [np.where(np.isnan(row), 0.0, term) for row, term in zip(history[:-1], past, strict=True)]
        weights = strength * (now - np.sum(known, axis=0) if known else now)
    else:
        weights = strength * _running(history, potential)
    return np.asarray(np.where(np.isnan(now), -np.inf, weights))


def shares(log_weights: Float[ndarray, " particles"]) -> Float[ndarray, " particles"]:
    """Weights that sum to 1; at least one of them is above minus infinity."""
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())


def resample(shares: Float[ndarray, " particles"], rng: np.random.Generator) -> Int[ndarray, " particles"]:
    """Which particle each new one copies; a share s of n particles gives s * n copies, rounded up or down."""
    n = len(shares)
    positions = (rng.random() + np.arange(n)) / n
    # The last sum may fall short of 1 by rounding.
    copied = np.searchsorted(np.cumsum(shares), positions, side="right")
    return np.asarray(np.minimum(copied, np.flatnonzero(shares)[-1]))


def _running(history: Float[ndarray, "looks particles"], potential: Potential) -> Float[ndarray, " particles"]:
    if potential == "sum":
        return np.asarray(np.nansum(history, axis=0))
    filled = np.where(np.isnan(history), -np.inf, history).max(axis=0)
    return np.where(np.isfinite(filled), filled, 0.0)
