"""The guard's verdicts on a time line, each change of state with its reason in words."""

from collections.abc import Sequence
from itertools import groupby

from rewarddance.reports.alignment_curves import STEPS, evaluations_of
from rewarddance.reports.alignment_files import AlignmentEvaluation
from rewarddance.reports.run_files import RunFiles
from rewarddance.reports.sections import Finding, Section, State, Timeline, TimelineRow, Verdict

_STATES: dict[str, State] = {"healthy": "healthy", "warning": "warning", "hacking": "hacking"}


def guard_section(runs: Sequence[RunFiles]) -> Section | None:
    """Every verdict of every guarded run; None when no run had a guard."""
    guarded = [run for run in runs if any(row.verdict for row in evaluations_of(run))]
    if not guarded:
        return None
    rows = tuple(TimelineRow(run.name, tuple(map(_verdict, _judged(run)))) for run in guarded)
    findings = tuple(finding for run in guarded for finding in _findings(run, is_named=len(guarded) > 1))
    intro = (
        "The guard compares the same prompts and noise between evaluations. It sees the proxy, the held-out judges, "
        "the spread of rewards and the pictures; it never sees gold."
    )
    return Section("Guard", (Timeline("Verdicts", STEPS, rows, findings),), intro)


def state_of(evaluation: AlignmentEvaluation) -> State:
    """The verdict as a state with a colour; anything else than the three known ones is unknown."""
    return _STATES.get(evaluation.verdict or "", "unknown")


def _judged(run: RunFiles) -> list[AlignmentEvaluation]:
    return [row for row in evaluations_of(run) if row.verdict]


def _verdict(row: AlignmentEvaluation) -> Verdict:
    return Verdict(float(row.optimizer_step), state_of(row), row.action or "")


def _findings(run: RunFiles, is_named: bool) -> list[Finding]:
    """One for each stretch of the same state and action; its reason is the one that opened it."""
    found = []
    for (state, action), stretch in groupby(_judged(run), key=lambda row: (state_of(row), row.action or "")):
        rows = list(stretch)
        first, last = rows[0].optimizer_step, rows[-1].optimizer_step
        when = f"step {first}" if first == last else f"steps {first} to {last}"
        reason = next((row.reason for row in rows if row.reason), "")
        found.append(Finding(f"{run.name}, {when}" if is_named else when, state, reason, action))
    return found
