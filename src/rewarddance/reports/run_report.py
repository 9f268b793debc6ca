"""The page of a run, or of several side by side."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rewarddance.core.errors import UsageError
from rewarddance.reports.alignment_sections import alignment_figures, alignment_sections
from rewarddance.reports.evaluation_sections import (
    accuracy_section,
    calibration_section,
    key_figures,
    position_section,
)
from rewarddance.reports.html_page import write_page
from rewarddance.reports.judged_strips import strips_section
from rewarddance.reports.run_files import RunFiles, StoredEvaluation, read_run
from rewarddance.reports.sections import Block, Column, Page, Section, Table, Text
from rewarddance.reports.training_curves import alignment_training_section, training_figures, training_section


def report_run(run_folders: Sequence[Path], out: Path, title: str | None = None) -> Path:
    """Write one page about the runs in some folders.

    Args:
        run_folders: Each holds some of config.yaml, environment.json, metrics.jsonl and evaluation.json;
            evaluations may also stand in folders directly below. Alignment runs have evaluations.jsonl and samples/.
        out: The HTML file.
        title: The page's title; None makes one of the names.

    Returns:
        `out`.

    Raises:
        DataError: A folder holds nothing of a run, or a file in it is damaged.
        UsageError: No folder is given.
    """
    write_page(run_page([read_run(folder) for folder in run_folders], title), out)
    return out


def run_page(runs: Sequence[RunFiles], title: str | None = None, extra: Sequence[Section] = ()) -> Page:
    """The page about some runs.

    Args:
        runs: At least one.
        title: The page's title; None makes one of the names.
        extra: Sections that stand before environment and config.

    Raises:
        UsageError: There are no runs.
    """
    if not runs:
        raise UsageError("There is no run to report on. Give at least one run's folder.")
    evaluations = _named_apart([evaluation for run in runs for evaluation in run.evaluations])
    sections = (
        key_figures(evaluations) or training_figures(runs),
        alignment_figures(runs),
        *alignment_sections(runs),
        accuracy_section(evaluations),
        position_section(evaluations),
        calibration_section(evaluations),
        strips_section(evaluations),
        training_section(runs),
        alignment_training_section(runs),
        *extra,
        environment_section(runs),
    )
    names = ", ".join(run.name for run in runs)
    return Page(
        title=title or f"Run {names}" if len(runs) == 1 else title or f"Runs {names}",
        subtitle=_subtitle(runs),
        facts=_facts(runs, evaluations),
        sections=tuple(section for section in sections if section is not None),
    )


def _subtitle(runs: Sequence[RunFiles]) -> str:
    if all(run.alignment for run in runs):
        return "What following the reward did to the pictures, and whether the reward was hacked."
    if any(run.alignment for run in runs):
        return "How well the reward judges, what following it did to the pictures, and how everything was made."
    return "How well it judges, how far to trust it, and how it was made."


def environment_section(runs: Sequence[RunFiles]) -> Section | None:
    """Where the runs ran, and their configs in full."""
    blocks: list[Block] = []
    described = [run for run in runs if run.environment]
    if described:
        flat = [_flat(run.environment) for run in described]
        names = dict.fromkeys(name for values in flat for name in values)
        columns = (Column("", is_text=True), *(Column(run.name, is_text=True) for run in described))
        blocks.append(Table(columns, tuple((name, *(values.get(name) for values in flat)) for name in names)))
    for run in runs:
        if run.config:
            blocks.append(Text(run.config.rstrip(), is_verbatim=True, fold_title=f"config.yaml of {run.name}"))
    return Section("Environment and config", tuple(blocks)) if blocks else None


def _facts(runs: Sequence[RunFiles], evaluations: Sequence[StoredEvaluation]) -> tuple[tuple[str, str], ...]:
    """Command, date, seed and versions, each value once."""
    commands = [evaluation.content.get("command") for evaluation in evaluations]
    commands += [run.environment.get("command") for run in runs]
    moments = [evaluation.content.get("created") for evaluation in evaluations]
    moments += [run.environment.get("started") for run in runs]
    dates = [str(moment) for moment in moments if moment]
    seeds = [run.environment.get("seed") for run in runs]
    versions = [run.environment.get("versions") for run in runs]
    versions += [evaluation.content.get("versions") for evaluation in evaluations]
    facts = {
        "Command": _each_once(commands, "\n"),
        "Date": _each_once([_date(min(dates)), _date(max(dates))], " to ") if dates else "",
        "Seed": _each_once(seeds, ", "),
        "Versions": _each_once([_versions(value) for value in versions if isinstance(value, Mapping)], "; "),
        "Data": _each_once([evaluation.content.get("data") for evaluation in evaluations], ", "),
    }
    return tuple((name, value) for name, value in facts.items() if value)


def _versions(versions: Mapping[str, Any]) -> str:
    shown = ("rewarddance", "torch", "transformers")
    return ", ".join(f"{name} {versions[name]}" for name in shown if versions.get(name))


def _date(moment: str) -> str:
    try:
        return datetime.fromisoformat(moment).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return moment


def _each_once(values: Sequence[object], separator: str) -> str:
    return separator.join(dict.fromkeys(str(value) for value in values if value is not None and value != ""))


def _named_apart(evaluations: Sequence[StoredEvaluation]) -> list[StoredEvaluation]:
    """The same evaluations, with a number behind names that occur again."""
    seen: dict[str, int] = {}
    named = []
    for evaluation in evaluations:
        seen[evaluation.name] = seen.get(evaluation.name, 0) + 1
        again = seen[evaluation.name]
        name = evaluation.name if again == 1 else f"{evaluation.name} ({again})"
        named.append(StoredEvaluation(name, evaluation.content, evaluation.rows))
    return named


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key} ")
        elif value is not None:
            flat[f"{prefix}{key}".replace("_", " ")] = str(value)
    return flat
