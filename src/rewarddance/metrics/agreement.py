"""How often a judge chooses what people chose: accuracy drops ties, agreement counts them.

Both are means of one number a comparison, so that any of them can be bootstrapped (`metrics.bootstrap`) or compared
between two models on the same comparisons.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


def correctness(
    log_odds: Float[ndarray, " comparisons"], targets: Float[ndarray, " comparisons"]
) -> Float[ndarray, " comparisons"]:
    """Whether each choice is the people's choice; a tie among people is dropped.

    Args:
        log_odds: Log-odds that the second medium is better; NaN where the judgement failed.
        targets: Preference for the second medium in [0, 1]; NaN where nobody judged.

    Returns:
        1 right, 0 wrong or failed, one half where the log-odds are exactly 0 (what a coin toss would earn),
        NaN where the target is a tie or unknown.
    """
    preferred = np.sign(targets - 0.5)
    matched = 0.5 + 0.5 * np.sign(log_odds) * preferred
    matched = np.where(np.isnan(log_odds), 0.0, matched)
    return np.where((preferred == 0) | np.isnan(preferred), np.nan, matched)


def accuracy(log_odds: Float[ndarray, " comparisons"], targets: Float[ndarray, " comparisons"]) -> float:
    """Share of comparisons with a preference in which the judge prefers the same medium.

    Failed judgements count as wrong, log-odds of exactly 0 as one half, ties are dropped.

    Args:
        log_odds: Log-odds that the second medium is better; NaN where the judgement failed.
        targets: Preference for the second medium in [0, 1]; NaN where nobody judged.

    Returns:
        In [0, 1]; one half for a guess, NaN when every comparison is a tie.
    """
    return mean_of_known(correctness(log_odds, targets))


def tie_matches(
    log_odds: Float[ndarray, " comparisons"],
    targets: Float[ndarray, " comparisons"],
    tie_threshold: float | Float[ndarray, " comparisons"],
) -> Float[ndarray, " comparisons"]:
    """Whether the choice among first, second and tie is the people's.

    Args:
        log_odds: Log-odds that the second medium is better; NaN where the judgement failed.
        targets: Preference for the second medium in [0, 1]; NaN where nobody judged.
        tie_threshold: Log-odds up to this size are a tie; one number, or one a comparison.

    Returns:
        1 or 0 (wrong or failed); NaN where the target is unknown.
    """
    chosen = np.where(np.abs(log_odds) <= tie_threshold, 0.0, np.sign(log_odds))
    matched = (chosen == np.sign(targets - 0.5)).astype(float)
    return np.where(np.isnan(targets), np.nan, matched)


def agreement(
    log_odds: Float[ndarray, " comparisons"], targets: Float[ndarray, " comparisons"], tie_threshold: float
) -> float:
    """Share of comparisons in which judge and people make the same choice among first, second and tie.

    Args:
        log_odds: Log-odds that the second medium is better; NaN where the judgement failed (counts as wrong).
        targets: Preference for the second medium in [0, 1]; NaN where nobody judged.
        tie_threshold: Log-odds up to this size are a tie.

    Returns:
        In [0, 1]; NaN when no target is known.

    Source:
        Deutsch, Foster and Freitag, "Ties Matter", arXiv:2305.14324, section 4 (pairwise accuracy with ties);
        used for reward models by VideoAlign, arXiv:2501.13918.
    """
    return mean_of_known(tie_matches(log_odds, targets, tie_threshold))


def fit_tie_threshold(log_odds: Float[ndarray, " comparisons"], targets: Float[ndarray, " comparisons"]) -> float:
    """Tie threshold with the highest agreement on these comparisons.

    Only the sizes |log-odds| matter, so every candidate is tried: 0, and midway between each two neighbours.
    The smallest of equally good ones is taken. Never report agreement on the comparisons it was fitted on:
    `cross_fitted_thresholds` keeps the two apart.

    Args:
        log_odds: Log-odds that the second medium is better; NaN where the judgement failed.
        targets: Preference for the second medium in [0, 1]; NaN where nobody judged.

    Returns:
        At least 0; exactly 0 when there are no ties among the targets.

    Source:
        Deutsch, Foster and Freitag, arXiv:2305.14324, section 5 (tie calibration).
        Differs: thresholds lie midway between observed sizes, not on them.
    """
    is_usable = ~(np.isnan(log_odds) | np.isnan(targets))
    size, preferred = np.abs(log_odds[is_usable]), np.sign(targets[is_usable] - 0.5)
    if not len(size):
        return 0.0
    levels = np.unique(size)
    candidates = np.concatenate([[0.0], (levels[:-1] + levels[1:]) / 2, levels[-1:] + 1.0])
    tied = np.sort(size[preferred == 0])
    right = np.sort(size[(preferred != 0) & (np.sign(log_odds[is_usable]) == preferred)])
    ties_found = np.searchsorted(tied, candidates, side="right")
    choices_lost = np.searchsorted(right, candidates, side="right")
    return float(candidates[int(np.argmax(ties_found - choices_lost))])


@dataclass(frozen=True, slots=True)
class CrossFit:
    """Tie thresholds that were fitted on other comparisons than those they are used on.

    Attributes:
        thresholds: The threshold for each comparison.
        fold_thresholds: The distinct threshold of each fold.
    """

    thresholds: Float[ndarray, " comparisons"]
    fold_thresholds: tuple[float, ...]


def cross_fitted_thresholds(
    log_odds: Float[ndarray, " comparisons"],
    targets: Float[ndarray, " comparisons"],
    clusters: Int[ndarray, " comparisons"],
    rng: np.random.Generator,
    folds: int = 2,
) -> CrossFit:
    """Fit a tie threshold for each fold on all the other folds; a prompt is never in two folds.

    Args:
        log_odds: Log-odds that the second medium is better; NaN where the judgement failed.
        targets: Preference for the second medium in [0, 1]; NaN where nobody judged.
        clusters: Number of the prompt of each comparison.
        rng: Draws the folds.
        folds: How many parts; at least 2.

    Returns:
        A threshold for every comparison; 0 where there is nothing to fit on.
    """
    prompts = np.unique(clusters)
    fold_of_prompt = rng.permutation(len(prompts)) % folds
    fold = fold_of_prompt[np.searchsorted(prompts, clusters)]
    fold_thresholds = tuple(fit_tie_threshold(log_odds[fold != part], targets[fold != part]) for part in range(folds))
    return CrossFit(thresholds=np.asarray(fold_thresholds)[fold], fold_thresholds=fold_thresholds)


def win_rate(votes: Float[ndarray, " votes"]) -> float:
    """Wins plus half the ties, over all votes.

    Args:
        votes: 1 a win, 0.5 a tie, 0 a loss.

    Returns:
        In [0, 1]; NaN without votes.
    """
    return mean_of_known(votes)


def mean_of_known(values: Float[ndarray, " values"]) -> float:
    """Mean of the values that are not NaN; NaN when there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
