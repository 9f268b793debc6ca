r"""Has the policy become worse than it was at its best? A paired sequential test on the held-out judges.

*Paired.* Prompts and noise are fixed, so the change of a prompt between two evaluations holds neither the difficulty
of the prompt nor the luck of the noise. Prompts are the sample; what is inferred holds for prompts like these.

*The best is chosen on other prompts.* The highest of many noisy means is too high, and any later one looks like a
fall from it. So the prompts are split into folds, and the best evaluation of a fold is chosen by all other folds: the
mean change is then unbiased, whatever the choice.

*Many looks.* Every evaluation measures the same prompts again, so the looks are neither independent nor a growing
sample: confidence sequences and e-processes (arXiv:1810.08240) do not apply, because nothing new is drawn. What holds
under any dependence is the union bound. Look $t = 1, 2, \dots$ may err with probability

$$\alpha_t = \alpha\,\frac{L}{(t + L - 1)\,(t + L)}, \qquad \sum_{t \ge 1} \alpha_t = \alpha,$$

half of it within the first $L$ looks. A run whose held-out judges never fall (true means over prompts) is called
fallen with probability at most $\alpha$ over all of its looks, up to the error of the t distribution for means of
skewed changes over few prompts: give it 30 prompts or more.

Source:
    Alpha spending: Lan and DeMets (1983), "Discrete sequential boundaries for clinical trials". Choice on other
    folds: cross-fitting, arXiv:1608.00060.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import special

_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Change:
    """A mean over prompts with its 95 % interval and evidence that it is positive.

    Attributes:
        mean: Of the prompts' values.
        low: Lower end of the interval (Student's t).
        high: Upper end.
        p_value: One-sided: how often prompts like these would show as much if the true mean were 0.
    """

    mean: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Fall:
    """How far a figure lies below its best.

    Attributes:
        change: The fall, positive when the figure fell, with the best chosen on other prompts.
        rise: From the first evaluation to the best, at least 0.
        best: Index of the best evaluation (smoothed, all prompts) up to now, the latest included.
    """

    change: Change
    rise: float
    best: int

    def is_at_least(self, share: float, minimum: float) -> bool:
        """Whether the fall is this share of the rise, and not below the minimum."""
        return self.change.mean > 0 and self.change.mean >= max(share * self.rise, minimum)


def standardised(
    judges: Sequence[Mapping[str, Float[ndarray, " prompts"]]],
) -> Mapping[str, Float[ndarray, "evaluations prompts"]]:
    """Each judge in units of its own spread over the prompts at the first evaluation, whose mean becomes 0.

    A judge that gave every prompt the same at first keeps its own unit.
    """
    return {name: _standardised(np.stack([row[name] for row in judges])) for name in judges[0]}


def trailing_mean(values: Float[ndarray, "evaluations prompts"], width: int) -> Float[ndarray, "evaluations prompts"]:
    """Mean of each evaluation and up to `width - 1` before it."""
    counts = np.minimum(np.arange(1, len(values) + 1), width)
    lags = [values[: max(0, len(values) - lag)] for lag in range(width)]
    total = sum(np.pad(part, ((len(values) - len(part), 0), (0, 0))) for part in lags)
    return np.asarray(total / counts[:, None])


def mean_change(values: Float[ndarray, " prompts"]) -> Change:
    """Student's t for the mean of one value a prompt; no evidence from fewer than two prompts."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Change(mean, -np.inf, np.inf, 1.0)
    error = float(values.std(ddof=1)) / n**0.5
    if error <= 1e-12 * (1 + abs(mean)):  # all prompts alike: certain, unless it is the rounding of no change
        return Change(mean, mean, mean, 0.0 if mean > 1e-9 else 1.0)
    half = float(special.stdtrit(n - 1, 0.975)) * error  # scipy.stats does the same forty times slower
    return Change(mean, mean - half, mean + half, float(special.stdtr(n - 1, -mean / error)))


def fall_from_best(values: Float[ndarray, "evaluations prompts"]) -> Fall:
    """Compare the last evaluation with the best before it, prompt by prompt.

    Args:
        values: Evaluations of one figure, smoothed if wanted; higher is better. A single one has not fallen.
    """
    before, now = values[: max(1, len(values) - 1)], values[-1]
    n_prompts = len(now)
    folds = np.arange(n_prompts) % min(_FOLDS, n_prompts)
    sums = before @ np.eye(folds.max() + 1)[folds]  # (evaluations, folds)
    others = sums.sum(axis=1, keepdims=True) - sums
    counts = np.maximum(n_prompts - np.bincount(folds), 1)
    best = before[(others / counts).argmax(axis=0)[folds], np.arange(n_prompts)]
    means = values.mean(axis=1)
    index = int(means.argmax())
    return Fall(mean_change(best - now), rise=float(means[index] - means[0]), best=index)


def last_as_good(values: Float[ndarray, "evaluations prompts"], best: int, errors: float) -> int:
    """The last evaluation of those in a row from the best on that can hardly be told from it.

    Judges that are fooled a little less than the reward see a fall a little early; where they see none, more tuning
    is kept.

    Args:
        values: Of one figure; higher is better.
        best: Index of the best evaluation.
        errors: Standard errors of the paired difference within which an evaluation counts as good as the best.
    """
    falls = values[best] - values[best:]  # (evaluations from the best on, prompts)
    limits = errors * falls.std(axis=1, ddof=1) / falls.shape[1] ** 0.5
    is_worse = falls.mean(axis=1) > limits
    return best + (int(is_worse.argmax()) if is_worse.any() else len(falls)) - 1


def spent(error_rate: float, look: int, looks: int) -> float:
    """Error that a look may make, so that all looks together make at most `error_rate`.

    Args:
        error_rate: Of the whole run.
        look: 1 for the first comparison.
        looks: Looks over which half of it is spread.
    """
    return error_rate * looks / ((look + looks - 1) * (look + looks))


def _standardised(values: Float[ndarray, "evaluations prompts"]) -> Float[ndarray, "evaluations prompts"]:
    spread = float(values[0].std())
    return np.asarray((values - values[0].mean()) / (spread if spread > 1e-9 else 1.0))
