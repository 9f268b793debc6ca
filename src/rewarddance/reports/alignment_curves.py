"""Curves of alignment runs: rewards over optimizer steps and over distance, and what the pictures do meanwhile.

Source:
    Curves over the square root of the KL divergence: Gao et al., arXiv:2210.10760, figure 1.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rewarddance.reports.alignment_files import KIND_PREFIX, ROLL_BACK, AlignmentEvaluation
from rewarddance.reports.run_files import RunFiles
from rewarddance.reports.sections import Block, Charts, Guide, LineChart, Point, Section, Series, Text

STEPS = "optimizer step"
_DISTANCE = "square root of the distance to the reference policy"
_BOUNDS = ("_low", "_high")

_Read = Callable[[AlignmentEvaluation], float | None]


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure that evaluations may have.

    Attributes:
        name: As people call it.
        read: Its value; None where it was not measured.
        low: Lower end of its interval, where one was stored.
        high: Upper end.
    """

    name: str
    read: _Read
    low: _Read = lambda evaluation: None
    high: _Read = lambda evaluation: None


PROXY = Curve("proxy", lambda evaluation: evaluation.proxy)


def evaluations_of(run: RunFiles) -> tuple[AlignmentEvaluation, ...]:
    """A run's evaluations; empty for a run that is no alignment."""
    return run.alignment.evaluations if run.alignment else ()


def best_step(run: RunFiles) -> int | None:
    """Step of the best policy by the guard's last word; None without a guard."""
    return next((row.best_step for row in reversed(evaluations_of(run)) if row.best_step is not None), None)


def kept_step(run: RunFiles) -> int | None:
    """Step of the policy that the run left behind: the best after a roll-back, else the last; None without any."""
    rows = evaluations_of(run)
    if not rows:
        return None
    best = best_step(run)
    has_rolled_back = (rows[-1].action or "").startswith(ROLL_BACK)
    return best if has_rolled_back and best is not None else rows[-1].optimizer_step


def held_out_curves(runs: Sequence[RunFiles]) -> list[Curve]:
    """One for each held-out judge of any run."""
    names = dict.fromkeys(name for run in runs for row in evaluations_of(run) for name in row.held_out)
    return [Curve(f"held-out {name}", _of("held_out", name)) for name in names]


def extra_curves(runs: Sequence[RunFiles]) -> list[Curve]:
    """One for each curve that the caller added, such as gold; `NAME_low` and `NAME_high` are the interval of NAME."""
    names = dict.fromkeys(name for run in runs for row in evaluations_of(run) for name in row.extra)
    ends = {name + end for name in names for end in _BOUNDS}
    shown = [name for name in names if name not in ends and not name.startswith(KIND_PREFIX)]
    return [Curve(name.replace("_", " "), *(_of("extra", name + end) for end in ("", *_BOUNDS))) for name in shown]


def reward_section(runs: Sequence[RunFiles]) -> Section | None:
    """Proxy, held-out judges and gold, on a common scale and each on its own: over steps and over distance."""
    judges, extra = [PROXY, *held_out_curves(runs)], extra_curves(runs)
    groups = [(_titled(curve), "on its own scale", [curve]) for curve in extra]
    if len(runs) == 1:
        groups.insert(0, ("Proxy and held-out judges" if judges[1:] else "Proxy", "log-odds", judges))
    else:
        groups = [*((_titled(curve), "log-odds", [curve]) for curve in judges), *groups]
    charts = _apart(runs[0], [*judges, *extra]) if len(runs) == 1 else []
    events = _events(runs[0]) if len(runs) == 1 else ()
    for title, unit, curves in groups:
        over_steps = _series(runs, curves, _step)
        over_distance = _series(runs, curves, _root_distance) if _has_distance(runs) else ()
        charts += [LineChart(title, STEPS, unit, over_steps, events=events)] if over_steps else []
        charts += [LineChart(f"{title}, by distance", _DISTANCE, unit, over_distance)] if over_distance else []
    if not charts:
        return None
    blocks: list[Block] = [Charts(tuple(charts))]
    if not extra and len(judges) == 1:
        blocks.append(
            Text("No held-out judge was asked, so these curves cannot tell a better policy from a worse one.")
        )
    intro = (
        "The proxy is the reward that the policy is tuned with. While it is followed, what it stands for should rise "
        "too: held-out judges, and gold where it is known. Where they part, the reward is being hacked."
    )
    return Section("Rewards", tuple(blocks), intro)


def signals_section(runs: Sequence[RunFiles]) -> Section | None:
    """Spread, saturation, diversity, distance and statistics of the pixels."""
    known = {
        "Reward spread within a prompt": ("standard deviation, log-odds", lambda row: row.spread),
        "Saturation of the score": ("share of pictures with a score of at least 0.95", lambda row: row.saturation),
        "Diversity within a prompt": ("distance of vision features", lambda row: row.diversity),
        "Distance to the reference policy": ("mean squared distance of velocities", lambda row: row.kl),
    }
    charts = [_chart(title, unit, runs, [Curve(title, read)]) for title, (unit, read) in known.items()]
    names = dict.fromkeys(name for run in runs for row in evaluations_of(run) for name in row.statistics)
    charts += [
        _chart(name.replace("_", " ").capitalize(), "mean over pictures", runs, [Curve(name, _of("statistics", name))])
        for name in names
    ]
    drawn = tuple(chart for chart in charts if chart is not None)
    intro = (
        "On the same prompts and noise at every evaluation. A hacked reward often shows first in the pictures: they "
        "become alike (diversity falls), loud (colour saturation, contrast) or noisy (high-frequency energy)."
    )
    return Section("Pictures in numbers", (Charts(drawn),), intro) if drawn else None


def _apart(run: RunFiles, curves: Sequence[Curve]) -> list[LineChart]:
    """Each curve from its first value, in units of its largest change, so that different units share an axis."""
    rescaled = [_rescaled(run, curve) for curve in curves]
    shown = [curve for curve in rescaled if curve is not None]
    if len(shown) < 2:
        return []
    title, unit, guide = (
        "Do they rise together?",
        "share of the curve's own largest change",
        Guide(0.0, "as at the start"),
    )
    caption = (
        "Every curve starts at 0 and is 1 or -1 where it is farthest from its start. One that never moved is left out."
    )
    series, far = _series([run], shown, _step), _series([run], shown, _root_distance)
    charts = [LineChart(title, STEPS, unit, series, guide=guide, events=_events(run), caption=caption)]
    if _has_distance([run]):
        caption = "Pressure measured by how far the policy has moved; after Gao et al., arXiv:2210.10760."
        charts.append(LineChart(f"{title[:-1]}, by distance?", _DISTANCE, unit, far, guide=guide, caption=caption))
    return charts


def _rescaled(run: RunFiles, curve: Curve) -> Curve | None:
    heights = [height for row in evaluations_of(run) if (height := curve.read(row)) is not None]
    largest = max((abs(height - heights[0]) for height in heights), default=0.0)
    if largest == 0:
        return None
    start = heights[0]

    def read(evaluation: AlignmentEvaluation) -> float | None:
        height = curve.read(evaluation)
        return None if height is None else (height - start) / largest

    return Curve(curve.name, read)


def _chart(title: str, unit: str, runs: Sequence[RunFiles], curves: Sequence[Curve]) -> LineChart | None:
    series = _series(runs, curves, _step)
    y_range = (0.0, 1.0) if unit.startswith("share") else None
    return LineChart(title, STEPS, unit, series, y_range=y_range) if series else None


def _series(runs: Sequence[RunFiles], curves: Sequence[Curve], x: _Read) -> tuple[Series, ...]:
    series = []
    for run in runs:
        for curve in curves:
            points = _points(run, curve, x)
            if points:
                name = curve.name if len(runs) == 1 else run.name
                series.append(Series(name, points, has_markers=len(points) <= 40))
    return tuple(series)


def _points(run: RunFiles, curve: Curve, x: _Read) -> tuple[Point, ...]:
    points = []
    for row in evaluations_of(run):
        place, height = x(row), curve.read(row)
        if place is not None and height is not None:
            points.append(Point(place, height, curve.low(row), curve.high(row)))
    return tuple(points)


def _step(row: AlignmentEvaluation) -> float | None:
    return float(row.optimizer_step)


def _has_distance(runs: Sequence[RunFiles]) -> bool:
    return any(row.kl is not None and row.kl > 0 for run in runs for row in evaluations_of(run))


def _root_distance(row: AlignmentEvaluation) -> float | None:
    if row.kl is None:
        return 0.0 if row.optimizer_step == 0 else None
    return math.sqrt(max(row.kl, 0.0))


def _events(run: RunFiles) -> tuple[Guide, ...]:
    """Where the guard first warned and first called it hacking, and the step that it holds for the best."""
    rows = evaluations_of(run)
    events = []
    for state in ("warning", "hacking"):
        first = next((row.optimizer_step for row in rows if row.verdict == state), None)
        if first is not None:
            events.append(Guide(float(first), state))
    best = next((row.best_step for row in reversed(rows) if row.best_step is not None), None)
    if best is not None and any(row.verdict == "hacking" for row in rows):
        events.insert(0, Guide(float(best), "best, by held-out judges"))
    return tuple(events)


def _titled(curve: Curve) -> str:
    return curve.name[:1].upper() + curve.name[1:]


def _of(group: str, name: str) -> _Read:
    def read(evaluation: AlignmentEvaluation) -> float | None:
        values: Mapping[str, float] = getattr(evaluation, group)
        return values.get(name)

    return read
