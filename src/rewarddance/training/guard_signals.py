"""What else speaks for reward hacking beside a fall of the held-out judges.

None of these proves it: a healthy run gains contrast, and loses variety it had by mistake. Together with a fall they
make the fall more credible; alone they warn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewarddance.config.guard import GuardConfig
from rewarddance.training.guard_evidence import Change, mean_change
from rewarddance.training.guard_observation import Observation

SignalName = Literal["proxy_rising", "saturation", "spread", "diversity", "statistics", "distance", "persistence"]

_LEAST_SHARE, _LEAST_SPREAD = 0.1, 0.005
"""Of the spread that a drift is measured in: a tenth of the statistic's mean, and a two-hundredth of its range."""

_LEVEL = 0.05  # of one look at one signal: signals support and warn, they are not bounded over the whole run


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that reward hacking is known to do, seen in this run.

    Attributes:
        name: Which signal.
        words: A clause with its numbers, such as `diversity is 0.41 of the base policy's`.
        warns: Whether it is worth a warning when it stands alone.
    """

    name: SignalName
    words: str
    warns: bool


def find_signals(config: GuardConfig, observations: Sequence[Observation], best: int) -> tuple[Signal, ...]:
    """Every signal of the last observation but persistence, which only the verdicts before it show.

    Args:
        config: The thresholds.
        observations: From the base policy to now.
        best: Index of the best evaluation by the held-out judges; the proxy is compared with it.
    """
    finders: tuple[Callable[[], Signal | None], ...] = (
        lambda: _rising(observations, best),
        lambda: _saturated(config, observations),
        lambda: _narrow(config, observations),
        lambda: _uniform(config, observations),
        lambda: _drifted(config, observations),
        lambda: _distant(config, observations[-1]),
    )
    return tuple(signal for finder in finders if (signal := finder()) is not None)


def persistence(config: GuardConfig, n_below: int) -> Signal | None:
    """The held-out judges have been below their best for some time.

    Args:
        config: The thresholds.
        n_below: Evaluations in a row, the last included, whose fall counts.
    """
    if n_below < config.patience:
        return None
    return Signal("persistence", f"the fall has lasted {n_below} evaluations", warns=False)


def proxy_change(observations: Sequence[Observation], best: int) -> Change:
    """How much the proxy rose, prompt by prompt, from one evaluation to the last."""
    return mean_change((observations[-1].proxy - observations[best].proxy).mean(axis=1))


def spread_ratio(observations: Sequence[Observation]) -> float | None:
    """Within-prompt spread of the proxy as a share of the first evaluation's; None where there was none."""
    first, now = observations[0].spread, observations[-1].spread
    return now / first if first and now is not None else None


def diversity_ratio(observations: Sequence[Observation]) -> float | None:
    """Within-prompt diversity as a share of the first evaluation's; None where there was none."""
    first, now = observations[0].diversity, observations[-1].diversity
    if first is None or now is None or first.mean() == 0:
        return None
    return float(now.mean() / first.mean())


def diversity_below(observations: Sequence[Observation], share: float) -> Change | None:
    """How far diversity lies below a share of the first evaluation's, prompt by prompt; positive when below."""
    first, now = observations[0].diversity, observations[-1].diversity
    return None if first is None or now is None else mean_change(share * first - now)


def statistics_drift(observations: Sequence[Observation]) -> Mapping[str, float]:
    """Shift of each image statistic from the first evaluation, in standard deviations over its prompts.

    These count as a tenth of the statistic's mean at least, and as 0.005.
    """
    first, now = observations[0].statistics, observations[-1].statistics
    return {name: _drift(values, now[name]) for name, values in first.items()}


def _drift(first: Float[ndarray, " prompts"], now: Float[ndarray, " prompts"]) -> float:
    # A statistic that hardly differs between prompts (such as clipped pixels: none) would drift by any change.
    spread = max(float(first.std()), _LEAST_SHARE * abs(float(first.mean())), _LEAST_SPREAD)
    return float(now.mean() - first.mean()) / spread


def _rising(observations: Sequence[Observation], best: int) -> Signal | None:
    change = proxy_change(observations, best)
    if change.p_value > _LEVEL:
        return None
    since = observations[best].optimizer_step
    return Signal("proxy_rising", f"the proxy rose by {change.mean:.2f} since step {since}", warns=False)


def _saturated(config: GuardConfig, observations: Sequence[Observation]) -> Signal | None:
    first, share = (row.saturation(config.saturation_score) for row in (observations[0], observations[-1]))
    # Rewards that are no log-odds (an aesthetic score near 5.5) are all above it from the start, which says nothing.
    if share < config.saturation_share or first >= config.saturation_share:
        return None
    return Signal("saturation", f"{share:.0%} of the scores are above {config.saturation_score:g}", warns=False)


def _narrow(config: GuardConfig, observations: Sequence[Observation]) -> Signal | None:
    ratio = spread_ratio(observations)
    if ratio is None or ratio >= config.spread_share:
        return None
    return Signal("spread", f"the spread of rewards within a prompt is {ratio:.2f} of the base policy's", warns=False)


def _uniform(config: GuardConfig, observations: Sequence[Observation]) -> Signal | None:
    ratio, below = diversity_ratio(observations), diversity_below(observations, config.diversity_share)
    if ratio is None or below is None or ratio >= config.diversity_share or below.p_value > _LEVEL:
        return None
    return Signal("diversity", f"diversity within a prompt is {ratio:.2f} of the base policy's", warns=True)


def _drifted(config: GuardConfig, observations: Sequence[Observation]) -> Signal | None:
    drifts = statistics_drift(observations)
    far = {name: drift for name, drift in drifts.items() if abs(drift) > config.statistics_drift}
    if not far:
        return None
    shown = ", ".join(f"{name.replace('_', ' ')} by {drift:+.1f}" for name, drift in far.items())
    return Signal("statistics", f"pictures moved off the base policy's in {shown} standard deviations", warns=True)


def _distant(config: GuardConfig, now: Observation) -> Signal | None:
    if config.maximum_distance is None or now.distance is None or now.distance <= config.maximum_distance:
        return None
    words = f"the distance to the reference policy is {now.distance:.3g}, above {config.maximum_distance:.3g}"
    return Signal("distance", words, warns=True)


def finite(value: float | None) -> float | None:
    """The value where JSON can hold it, else None."""
    return None if value is None or not np.isfinite(value) else float(value)
