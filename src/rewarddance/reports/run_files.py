"""What a run left behind, read back; whatever is missing is empty."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rewarddance.core.errors import DataError
from rewarddance.core.stored_values import flaw
from rewarddance.evaluation.evaluation_file import EVALUATION_NAME
from rewarddance.evaluation.judgement_rows import ROWS_NAME, JudgementRow, read_rows
from rewarddance.evaluation.preference_report import PreferenceReport
from rewarddance.reports.alignment_files import AlignmentFiles, read_alignment
from rewarddance.reports.json_files import read_json, read_steps

_REPORT = TypeAdapter(PreferenceReport)


@dataclass(frozen=True, slots=True)
class StoredEvaluation:
    """One `evaluation.json` and the judgements beside it.

    Attributes:
        name: What tables call the model.
        content: The whole file.
        rows: The judgements; empty when they were not kept.
    """

    name: str
    content: Mapping[str, Any]
    rows: tuple[JudgementRow, ...]

    @property
    def report(self) -> Mapping[str, Any]:
        """The figures."""
        report: Mapping[str, Any] = self.content["report"]
        return report


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A run's folder.

    Attributes:
        name: The folder's name.
        config: `config.yaml` as text.
        environment: `environment.json`.
        metrics: Lines of `metrics.jsonl`; values inside values are named `outer/inner`.
        evaluations: Those in the folder and in the folders directly below it.
        alignment: What `rewarddance align` adds; None for another kind of run.
    """

    name: str
    config: str
    environment: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    evaluations: tuple[StoredEvaluation, ...]
    alignment: AlignmentFiles | None = None


def read_run(folder: Path) -> RunFiles:
    """Read a run's folder.

    Args:
        folder: Of a training run or of an evaluation.

    Raises:
        DataError: It is not a folder, holds nothing of a run, or a file in it is damaged.
    """
    config, environment = folder / "config.yaml", folder / "environment.json"
    places = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    run = RunFiles(
        name=folder.resolve().name,
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        environment=read_json(environment) if environment.is_file() else {},
        metrics=tuple(map(_flat, read_steps(folder / "metrics.jsonl"))),
        evaluations=tuple(_evaluation(place, folder) for place in places if (place / EVALUATION_NAME).is_file()),
        alignment=read_alignment(folder),
    )
    if not (run.config or run.metrics or run.evaluations or run.alignment):
        raise DataError(
            f"{folder} holds no run: no config.yaml, metrics.jsonl or {EVALUATION_NAME}. Give a run's folder."
        )
    return run


def _evaluation(place: Path, run_folder: Path) -> StoredEvaluation:
    content = read_json(place / EVALUATION_NAME)
    if not isinstance(content.get("report"), dict):
        raise DataError(f"{place / EVALUATION_NAME} holds no report. Evaluate again.")
    if (lacking := flaw(_REPORT.validate_python, content["report"])) is not None:
        raise DataError(f"{place / EVALUATION_NAME}: its report {lacking}. Evaluate again.")
    name = str(content.get("name") or run_folder.resolve().name)
    return StoredEvaluation(name=name, content=content, rows=tuple(read_rows(place / ROWS_NAME)))


def _flat(row: Mapping[str, Any]) -> Mapping[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= {f"{key}/{inner}": part for inner, part in value.items()} if isinstance(value, dict) else {key: value}
    return flat
