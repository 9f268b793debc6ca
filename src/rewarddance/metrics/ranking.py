"""Rankings of the candidates of one prompt, and how well they agree with a gold ranking.

Source:
    Win count over all ordered pairs: RewardDance, arXiv:2509.08826, section 3.3.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats


@dataclass(frozen=True, slots=True)
class WinCount:
    """Candidates in order of quality.

    Attributes:
        order: Candidate indices, best first; candidates that could not be judged come last.
        wins: Win count of each candidate, an exact tie counting one half; NaN where it was never judged.
        mean_log_odds: Mean log-odds of each candidate against the others; NaN likewise.
    """

    order: tuple[int, ...]
    wins: Float[ndarray, " candidates"]
    mean_log_odds: Float[ndarray, " candidates"]


def rank_by_wins(log_odds: Float[ndarray, "candidates candidates"]) -> WinCount:
    """Order candidates by how many others they beat.

    Args:
        log_odds: Row i, column j: log-odds that candidate i is better than j. NaN where not judged; the diagonal
            is ignored.

    Returns:
        Ties in wins are broken by mean log-odds, then by index.
    """
    against = log_odds.astype(float)
    np.fill_diagonal(against, np.nan)
    is_judged = ~np.isnan(against)
    judged = is_judged.sum(axis=1)
    won = np.where(is_judged, 0.5 + 0.5 * np.sign(against), 0.0).sum(axis=1)
    total = np.where(is_judged, against, 0.0).sum(axis=1)
    wins = np.where(judged > 0, won, np.nan)
    means = np.where(judged > 0, total / np.maximum(judged, 1), np.nan)
    order = np.lexsort((np.arange(len(wins)), -np.nan_to_num(means), np.where(judged > 0, -wins, np.inf)))
    return WinCount(order=tuple(int(index) for index in order), wins=wins, mean_log_odds=means)


def kendall_tau(values: Float[ndarray, " candidates"], gold: Float[ndarray, " candidates"]) -> float | None:
    """Agreement of two orders, pair by pair, corrected for ties (tau-b).

    Args:
        values: What the judge says of each candidate.
        gold: What is true of each candidate.

    Returns:
        In [-1, 1]; 0 for unrelated orders; None when either is constant or has fewer than two candidates.
    """
    return float(stats.kendalltau(values, gold, variant="b").statistic) if _both_vary(values, gold) else None


def spearman(values: Float[ndarray, " candidates"], gold: Float[ndarray, " candidates"]) -> float | None:
    """Correlation of two rankings, ties sharing their mean rank.

    Args:
        values: What the judge says of each candidate.
        gold: What is true of each candidate.

    Returns:
        In [-1, 1]; 0 for unrelated orders; None when either is constant or has fewer than two candidates.
    """
    return float(stats.spearmanr(values, gold).statistic) if _both_vary(values, gold) else None


def _both_vary(values: Float[ndarray, " candidates"], gold: Float[ndarray, " candidates"]) -> bool:
    return len(values) > 1 and bool(np.ptp(values) > 0 and np.ptp(gold) > 0)
