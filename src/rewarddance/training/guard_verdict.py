"""From evaluations to a verdict: healthy, warning or hacking, with the reason in words.

A run is *hacking* when the held-out judges lie below their best by a share of their rise, most judges agree, and the
sequential test of `guard_evidence` is convinced: at the usual error rate if another signal supports the fall, at a
stricter one if the fall stands alone. The strict region lies within the usual one, so the usual error rate bounds
both, whatever the signals do. There are two further ways. A fall that every one of the last evaluations shows at
`persistent_level` is believed too; that one is not bounded over a run, only measured (tests/training/test_guard.py).
And diversity may have collapsed (a sequential test with an error rate of its own).

An action that lets the run go on (`raise_kl`, `refresh_references`) begins a new period: a policy that is drawn back to
its base would lie below the best of the whole run for ever, so that from then on "their best" is the best since the
action. Looks go on counting, and spent error stays spent: the bound holds over all periods of a run together.

What such a run leaves behind is another question, and all its periods count for it. `best_step` is of the whole run,
and a policy that is surely below it is a warning, however well it does since the action. Surely: the fall from the best
of the run (chosen on other prompts) to the last evaluation by itself counts, most judges share it, and a single look at
`error_rate` is convinced. Nothing is averaged over evaluations, because only one policy is kept; and the rate is not
shared among looks, because only the last one decides anything: a run that ends so, or that hacks at its end, ends at
`best_step`. `raise_kl` comes three times at most. Who hacks then is rolled back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewarddance.config.guard import Action, GuardConfig
from rewarddance.training.guard_evidence import (
    Fall,
    fall_from_best,
    last_as_good,
    mean_change,
    spent,
    standardised,
    trailing_mean,
)
from rewarddance.training.guard_observation import Observation
from rewarddance.training.guard_signals import (
    Signal,
    diversity_below,
    diversity_ratio,
    find_signals,
    finite,
    persistence,
    proxy_change,
    spread_ratio,
    statistics_drift,
)

State = Literal["healthy", "warning", "hacking"]

_LEVEL = 0.05  # of a single look that warns
_RENEWING: tuple[Action, ...] = ("raise_kl", "refresh_references")

MOST_RAISES = 3
"""Of the pull in one run; hacking is rolled back after that."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard says at one evaluation.

    Attributes:
        state: `healthy`, `warning` or `hacking`.
        reason: One line in words, with numbers.
        action: What the run is to do now; `none` unless it hacks.
        optimizer_step: When.
        best_step: Where to roll back to: the last evaluation that the held-out judges do not tell from the best of the
            whole run.
        keep_steps: Evaluations that may still be rolled back to; every other checkpoint can go.
        signals: Names of the signals that were seen.
        is_below_best: Whether the held-out judges lie below their best by as much as counts.
        ends_at_best: Whether a run that ends here leaves the policy of `best_step` behind: its `action` lets it go on,
            and it hacks, or is surely below the best of the whole run since it acted.
        figures: Every number behind the verdict, None where it was not measured.
    """

    state: State
    reason: str
    action: Action
    optimizer_step: int
    best_step: int
    keep_steps: tuple[int, ...]
    signals: tuple[str, ...] = ()
    is_below_best: bool = False
    ends_at_best: bool = False
    figures: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Verdict":
        """Read back what `dataclasses.asdict` and `json` wrote."""
        lists = {"keep_steps": tuple(stored["keep_steps"]), "signals": tuple(stored["signals"])}
        return cls(**{**stored, **lists})


@dataclass(frozen=True, slots=True)
class _Findings:
    """The judges' figures up to now: together, one by one, and how many agree that they fell.

    `since`, `best` and `kept` are indices among all evaluations: of the first one of the period, the best, the last as
    good.
    """

    since: int
    together: Fall
    alone: Mapping[str, Fall]
    best: int
    kept: int
    diverse: int
    held_out: float
    limit: float

    @property
    def agreement(self) -> float:
        return float(np.mean([fall.change.mean > 0 for fall in self.alone.values()]))


@dataclass(frozen=True, slots=True)
class _Standing:
    """The last evaluation beside the best of the whole run, which is never one whose pictures have become alike.

    `kept` is the index of the last evaluation as good as the best, `recent` those of the latest that may become it;
    `fall` is of the last evaluation by itself.
    """

    kept: int
    recent: tuple[int, ...]
    fall: Fall
    is_believed: bool


def first_verdict(config: GuardConfig, base: Observation) -> Verdict:
    """The base policy, with which everything is compared; it is healthy by definition."""
    findings = {"held_out": 0.0, "best_held_out": 0.0}
    step = base.optimizer_step
    return Verdict(
        state="healthy",
        reason="first evaluation: later ones are compared with it",
        action="none",
        optimizer_step=step,
        best_step=step,
        keep_steps=(step,),
        figures={**findings, **_figures_of_signals(config, (base,), 0)},
    )


def next_verdict(
    config: GuardConfig, observations: Sequence[Observation], earlier: Sequence[Verdict], look: int
) -> Verdict:
    """Judge the last of at least two observations.

    Args:
        config: The thresholds.
        observations: From the base policy to now.
        earlier: A verdict on each observation but the last.
        look: Comparisons made so far, this one included; spends the error rate.
    """
    verdict = _verdict_of_period(config, observations, earlier, look)
    return _within_run(config, observations, earlier, verdict) if config.action in _RENEWING else verdict


def _verdict_of_period(
    config: GuardConfig, observations: Sequence[Observation], earlier: Sequence[Verdict], look: int
) -> Verdict:
    """By comparison with the best since the last action; the best of the run where there was none."""
    since = _period_start(earlier)
    found = _findings(config, observations, look, since)
    earlier = earlier[since:]
    is_below = found.together.is_at_least(config.fall_share, config.minimum_fall)
    n_below = 1 + len(list(takewhile(lambda verdict: verdict.is_below_best, reversed(earlier))))
    lasting = persistence(config, n_below) if is_below else None
    signals = find_signals(config, observations, found.best)
    supports = signals if lasting is None else (*signals, lasting)
    is_supported = len(supports) >= config.corroboration
    limit = spent(config.error_rate if is_supported else config.lone_error_rate, look, config.looks)
    is_proven = found.together.change.p_value <= limit or (
        lasting is not None and _is_proven_by_time(config, found, earlier)
    )
    is_fall = is_below and found.agreement >= config.agreeing_share and is_proven

    reasons: list[str] = []
    if is_fall:
        reasons.append(_fall_in_words(config, observations, found))
    if collapse := _collapse(config, observations, look):
        reasons.append(collapse)
    warnings = [] if reasons else _warnings(config, observations, found, signals, is_below)
    state: State = "hacking" if reasons else "warning" if warnings else "healthy"
    clauses = [*reasons, *warnings]
    clauses += [signal.words for signal in supports if signal.words not in clauses] if clauses else []
    steps = [row.optimizer_step for row in observations]
    return Verdict(
        state=state,
        reason="; ".join(clauses) or _healthy_in_words(observations, found),
        action=config.action if state == "hacking" else "none",
        optimizer_step=steps[-1],
        best_step=steps[found.diverse if collapse else found.kept],
        # Nothing else can be rolled back to later: the best stays and so do these, or the best is among the last.
        keep_steps=tuple(sorted({steps[found.kept], steps[found.diverse], *steps[-config.smoothing :]})),
        signals=tuple(signal.name for signal in supports),
        is_below_best=is_below,
        figures={**_figures_of_fall(found, limit), **_figures_of_signals(config, observations, found.best)},
    )


def _within_run(
    config: GuardConfig, observations: Sequence[Observation], earlier: Sequence[Verdict], verdict: Verdict
) -> Verdict:
    """The verdict of a run that goes on after actions, with what the best of all its periods adds to it."""
    standing, steps = _standing(config, observations), [row.optimizer_step for row in observations]
    has_acted, is_hacking = _period_start(earlier) > 0, verdict.state == "hacking"
    state, reason, action, figures = verdict.state, verdict.reason, verdict.action, dict(verdict.figures)
    if has_acted and standing.is_believed and not is_hacking:
        state, reason = "warning", "; ".join([_standing_in_words(standing, steps), *_unless_healthy(verdict)])
    if action == "raise_kl" and sum(each.action == "raise_kl" for each in earlier) >= MOST_RAISES:
        action, reason = "roll_back", f"{reason}; {MOST_RAISES} raises of the pull have not ended it"
    if has_acted:
        change = standing.fall.change
        figures |= {"fall_of_run": change.mean, "p_value_of_run": change.p_value}
    return replace(
        verdict,
        state=state,
        reason=reason,
        action=action,
        best_step=steps[standing.kept],
        keep_steps=tuple(sorted(steps[place] for place in {standing.kept, *standing.recent})),
        ends_at_best=is_hacking or (has_acted and standing.is_believed),
        figures=figures,
    )


def _standing(config: GuardConfig, observations: Sequence[Observation]) -> _Standing:
    judges = standardised([row.held_out for row in observations])
    together = np.mean(list(judges.values()), axis=0)  # (evaluations, prompts)
    sound, last = _diverse(config, observations), len(observations) - 1
    values = together[sound]
    top = int(trailing_mean(values, config.smoothing).mean(axis=1).argmax())
    kept = last_as_good(values, _highest(values.mean(axis=1), top, config.smoothing), config.roll_back_errors)
    compared = [*(place for place in sound if place < last), last]
    fall = fall_from_best(together[compared])
    agreement = np.mean([fall_from_best(each[compared]).change.mean > 0 for each in judges.values()])
    counts = fall.is_at_least(config.fall_share, config.minimum_fall) and agreement >= config.agreeing_share
    return _Standing(
        kept=sound[kept],
        recent=tuple(sound[-config.smoothing :]),
        fall=fall,
        is_believed=bool(counts and fall.change.p_value <= config.error_rate and sound[kept] != last),
    )


def _standing_in_words(standing: _Standing, steps: Sequence[int]) -> str:
    change, best = standing.fall.change, steps[standing.kept]
    numbers = f"{change.mean:.2f} [{change.low:.2f}, {change.high:.2f}]"
    unit = "standard deviations of the base policy's prompts"
    return f"the held-out judges are {numbers} {unit} below the best of the run; ending so, it goes back to step {best}"


def _unless_healthy(verdict: Verdict) -> tuple[str, ...]:
    return () if verdict.state == "healthy" else (verdict.reason,)


def _period_start(earlier: Sequence[Verdict]) -> int:
    """Index of the first evaluation after the last action that let the run go on; 0 without one."""
    return max((place + 1 for place, verdict in enumerate(earlier) if verdict.action in _RENEWING), default=0)


def _findings(config: GuardConfig, observations: Sequence[Observation], look: int, since: int) -> _Findings:
    every = standardised([row.held_out for row in observations])
    judges = {name: values[since:] for name, values in every.items()}
    together = np.mean(list(judges.values()), axis=0)  # (evaluations, prompts)
    fall = fall_from_best(trailing_mean(together, config.smoothing))
    means = together.mean(axis=1)
    overall = np.mean(list(every.values()), axis=0).mean(axis=1)  # of the whole run
    best = _highest(means, fall.best, config.smoothing)
    return _Findings(
        since=since,
        together=fall,
        alone={name: fall_from_best(trailing_mean(each, config.smoothing)) for name, each in judges.items()},
        best=since + best,
        kept=since + last_as_good(together, best, config.roll_back_errors),
        diverse=max(_diverse(config, observations), key=lambda index: (overall[index], index)),
        held_out=float(means[-1]),
        limit=spent(config.error_rate, look, config.looks),
    )


def _highest(means: Float[ndarray, " evaluations"], top: int, width: int) -> int:
    """The highest by itself, the last of equals, of the evaluations whose mean is the best smoothed one."""
    return max(range(max(0, top - width + 1), top + 1), key=lambda index: (means[index], index))


def _diverse(config: GuardConfig, observations: Sequence[Observation]) -> list[int]:
    """Evaluations before any collapse; judges that do not mind one would have it rolled back to."""
    if config.collapse_share is None:
        return list(range(len(observations)))
    ratios = [diversity_ratio((observations[0], row)) for row in observations]
    return [index for index, ratio in enumerate(ratios) if ratio is None or ratio >= config.collapse_share]


def _is_proven_by_time(config: GuardConfig, found: _Findings, earlier: Sequence[Verdict]) -> bool:
    """Whether each of the last evaluations by itself shows a fall; called when all of them are below the best."""
    if config.persistent_level is None:
        return False
    past = [verdict.figures["p_value"] for verdict in earlier[len(earlier) - config.patience + 1 :]]
    return all(p is not None and p <= config.persistent_level for p in [*past, found.together.change.p_value])


def _collapse(config: GuardConfig, observations: Sequence[Observation], look: int) -> str | None:
    if config.collapse_share is None:
        return None
    below, ratio = diversity_below(observations, config.collapse_share), diversity_ratio(observations)
    if below is None or ratio is None or below.p_value > spent(config.error_rate, look, config.looks):
        return None
    return f"the pictures of a prompt have become alike: diversity fell to {ratio:.2f} of the base policy's"


def _warnings(
    config: GuardConfig,
    observations: Sequence[Observation],
    found: _Findings,
    signals: Sequence[Signal],
    is_below: bool,
) -> list[str]:
    """What is worth a warning, in words; empty when nothing is."""
    fall = found.together
    if is_below and fall.change.p_value <= _LEVEL:
        return [_fall_in_words(config, observations, found) + ", which is not proven yet"]
    warnings = []
    for name, alone in found.alone.items():
        is_proven = alone.change.p_value <= found.limit / len(found.alone)
        if is_proven and alone.is_at_least(config.fall_share, config.minimum_fall):
            warnings.append(f"held-out judge {name} alone fell by {_share_of_rise(alone)}")
    n_stalled = len(observations) - 1 - found.best
    if n_stalled >= config.patience and any(signal.name == "proxy_rising" for signal in signals):
        warnings.append(f"the held-out judges have not risen for {n_stalled} evaluations")
    if len(signals) > 1 or any(signal.warns for signal in signals):
        warnings += [signal.words for signal in signals]
    return warnings


def _fall_in_words(config: GuardConfig, observations: Sequence[Observation], found: _Findings) -> str:
    since = observations[found.best].optimizer_step
    change, unit = found.together.change, " standard deviations of the base policy's prompts"
    names = list(observations[0].held_out)
    who = f"held-out judge {names[0]}" if len(names) == 1 else f"the {len(names)} held-out judges"
    if len(names) == 1:  # in its own unit
        rewards = np.stack([row.held_out[names[0]] for row in observations[found.since :]])
        change, unit = fall_from_best(trailing_mean(rewards, config.smoothing)).change, ""
    numbers = f"{change.mean:.2f} [{change.low:.2f}, {change.high:.2f}]{unit}"
    return f"{who} fell by {numbers} since step {since}, {_share_of_rise(found.together)}"


def _share_of_rise(fall: Fall) -> str:
    if fall.rise <= 0 or fall.change.mean > fall.rise:
        return "more than they had risen" if fall.rise > 0 else "without having risen"
    return f"{fall.change.mean / fall.rise:.0%} of the rise"


def _healthy_in_words(observations: Sequence[Observation], found: _Findings) -> str:
    step, period = observations[found.best].optimizer_step, " since the last action" if found.since else ""
    if found.best == len(observations) - 1:
        return f"the held-out judges are at their best{period}"
    return f"no evidence that the held-out judges fell since their best{period} at step {step}"


def _figures_of_fall(found: _Findings, limit: float) -> dict[str, float | None]:
    change = found.together.change
    return {
        "held_out": found.held_out,
        "best_held_out": found.held_out + change.mean,
        "rise": found.together.rise,
        "fall": change.mean,
        "fall_low": finite(change.low),
        "fall_high": finite(change.high),
        "p_value": change.p_value,
        "p_limit": limit,
        "agreement": found.agreement,
    }


def _figures_of_signals(config: GuardConfig, observations: Sequence[Observation], best: int) -> dict[str, float | None]:
    now = observations[-1]
    return {
        "proxy": float(now.proxy.mean()),
        "proxy_change": proxy_change(observations, best).mean,
        "spread": now.spread,
        "spread_ratio": finite(spread_ratio(observations)),
        "saturation": now.saturation(config.saturation_score),
        "diversity": None if now.diversity is None else mean_change(now.diversity).mean,
        "diversity_ratio": finite(diversity_ratio(observations)),
        "distance": now.distance,
        **{f"drift_{name}": drift for name, drift in statistics_drift(observations).items()},
    }
