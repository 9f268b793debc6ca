"""What a page says about alignment runs: key figures, rewards, guard, pictures, kinds of prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

from rewarddance.reports.alignment_curves import (
    PROXY,
    Curve,
    best_step,
    evaluations_of,
    extra_curves,
    held_out_curves,
    kept_step,
    reward_section,
    signals_section,
)
from rewarddance.reports.alignment_files import KIND_PREFIX, AlignmentEvaluation
from rewarddance.reports.alignment_pictures import pictures_section
from rewarddance.reports.alignment_verdicts import guard_section, state_of
from rewarddance.reports.numbers import decimal
from rewarddance.reports.run_files import RunFiles
from rewarddance.reports.sections import Block, Cell, Column, Estimate, Figure, Figures, Section, State, Table

_WORST_FIRST: tuple[State, ...] = ("hacking", "warning", "healthy", "unknown")


def alignment_sections(runs: Sequence[RunFiles]) -> tuple[Section, ...]:
    """Every section that these runs can fill; none when none of them is an alignment.

    Args:
        runs: Of any kind.
    """
    aligned = [run for run in runs if run.alignment is not None]
    sections = (
        pictures_section(aligned),
        reward_section(aligned) if aligned else None,
        guard_section(aligned),
        kinds_section(aligned),
        signals_section(aligned),
    )
    return tuple(section for section in sections if section is not None)


def alignment_figures(runs: Sequence[RunFiles]) -> Section | None:
    """Where each alignment ended, compared with where it began: figures of one run, a table of several."""
    evaluated = [run for run in runs if evaluations_of(run)]
    if not evaluated:
        return None
    block: Block = Figures(_figures(evaluated[0])) if len(evaluated) == 1 else _table(evaluated)
    return Section("Alignment", (block,))


def kinds_section(runs: Sequence[RunFiles]) -> Section | None:
    """A figure for each kind of prompt before, at the best step and after, as GenEval's table has it.

    Source:
        GenEval, arXiv:2310.11513, table 2: kinds as columns, their unweighted mean as the overall figure.
    """
    names = dict.fromkeys(name for run in runs for row in evaluations_of(run) for name in _kinds(row))
    if not names:
        return None
    columns = (
        Column("Policy", is_text=True),
        Column("Mean of kinds", best="highest"),
        *(Column(name.replace("_", " "), best="highest") for name in names),
    )
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        for label, evaluation in _moments(run):
            kinds = _kinds(evaluation)
            mean = sum(kinds.values()) / len(kinds)
            title = label if len(runs) == 1 else f"{run.name}, {label}"
            rows.append((title, mean, *(kinds.get(name) for name in names)))
    return Section("Kinds of prompts", (Table(columns, tuple(rows), caption="The highest of a column is bold."),))


def _curves(runs: Sequence[RunFiles]) -> list[Curve]:
    return [PROXY, *held_out_curves(runs), *extra_curves(runs)]


def _figures(run: RunFiles) -> tuple[Figure, ...]:
    figures = [figure for curve in _curves([run]) if (figure := _figure(run, curve)) is not None]
    diversity = _diversity(run)
    if diversity is not None:
        note = f"{decimal(diversity.last)}, was {decimal(diversity.first)}"
        figures.append(Figure("diversity, share of the start's", Estimate(diversity.last / diversity.first), note))
    judged = [row for row in evaluations_of(run) if row.verdict]
    if judged:
        state, step = _worst(judged)
        acts = [row for row in judged if row.action]
        acted = "".join(f"; {row.action} at step {row.optimizer_step}" for row in (*acts[:1], *acts[1:][-1:]))
        when = f"{len(judged)} evaluations" if state == "healthy" else f"first at step {step}"
        figures.append(Figure("guard's verdict", state, when + acted))
    return tuple(figures)


def _table(runs: Sequence[RunFiles]) -> Table:
    """The same figures, a row a run; of every curve the value of the policy that was kept."""
    curves = _curves(runs)
    columns = (
        Column("Run", is_text=True),
        *(Column(curve.name, best="highest") for curve in curves),
        Column("diversity, share of the start's"),
        Column("guard's verdict", is_text=True),
    )
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        ends = [_extent(run, curve) for curve in curves]
        diversity, judged = _diversity(run), [row for row in evaluations_of(run) if row.verdict]
        state, step = _worst(judged) if judged else (None, 0)
        verdict = f"{state}, first at step {step}" if state in ("warning", "hacking") else state
        share = None if diversity is None else diversity.last / diversity.first
        rows.append((run.name, *(None if end is None else end.last for end in ends), share, verdict))
    caption = (
        "Of the policy that each run kept: its last, or after a roll-back its best. Proxy and held-out judges in "
        "log-odds; runs with other rewards do not compare."
    )
    return Table(columns, tuple(rows), caption=caption)


@dataclass(frozen=True, slots=True)
class _Extent:
    """Where a curve began, where it stands at the policy that was kept, and its highest point."""

    first: float
    first_step: int
    last: float
    last_step: int
    top: float
    top_step: int


def _extent(run: RunFiles, curve: Curve) -> _Extent | None:
    points = [(row.optimizer_step, value) for row in evaluations_of(run) if (value := curve.read(row)) is not None]
    if not points:
        return None
    top_step, top = max(points, key=lambda point: point[1])
    end = kept_step(run)
    kept = [point for point in points if end is None or point[0] <= end]
    last_step, last = (kept or points)[-1]
    return _Extent(points[0][1], points[0][0], last, last_step, top, top_step)


def _diversity(run: RunFiles) -> _Extent | None:
    extent = _extent(run, Curve("diversity", lambda row: row.diversity))
    return extent if extent and extent.first > 0 and extent.last_step > extent.first_step else None


def _worst(judged: Sequence[AlignmentEvaluation]) -> tuple[State, int]:
    """The gravest state of a run and the step at which it was first said."""
    state = min((state_of(row) for row in judged), key=_WORST_FIRST.index)
    return state, next(row.optimizer_step for row in judged if state_of(row) == state)


def _figure(run: RunFiles, curve: Curve) -> Figure | None:
    """Value of the kept policy; the first beside it, and the highest where that is another."""
    extent = _extent(run, curve)
    if extent is None:
        return None
    unit = "log-odds, " if curve.name == PROXY.name or curve.name.startswith("held-out") else ""
    note = f"{unit}from {decimal(extent.first)} at step {extent.first_step}"
    if extent.last_step == extent.first_step:
        note = f"{unit}at step {extent.last_step}"
    note += "" if extent.top_step == extent.last_step else f"\nhighest {decimal(extent.top)} at step {extent.top_step}"
    if extent.last_step < evaluations_of(run)[-1].optimizer_step:
        note += f"\nof the policy that was kept, step {extent.last_step}"
    final = next(row for row in reversed(evaluations_of(run)) if row.optimizer_step == extent.last_step)
    return Figure(curve.name, Estimate(extent.last, curve.low(final), curve.high(final)), note)


def _moments(run: RunFiles) -> list[tuple[str, AlignmentEvaluation]]:
    """First, best and last of the evaluations that have kinds; each once."""
    rows = [row for row in evaluations_of(run) if _kinds(row)]
    best, end = best_step(run), kept_step(run)
    shown = {rows[0].optimizer_step: ("before", rows[0])} if rows else {}
    for row in rows[1:]:
        if row.optimizer_step == best and row is not rows[-1]:
            shown[row.optimizer_step] = ("kept" if row.optimizer_step == end else "best by held-out judges", row)
    if rows[1:]:
        last = rows[-1].optimizer_step
        shown[last] = ("after" if last == end else "not kept", rows[-1])
    return [(f"{label}, step {row.optimizer_step}", row) for label, row in shown.values()]


def _kinds(row: AlignmentEvaluation) -> dict[str, float]:
    return {name.removeprefix(KIND_PREFIX): value for name, value in row.extra.items() if name.startswith(KIND_PREFIX)}
