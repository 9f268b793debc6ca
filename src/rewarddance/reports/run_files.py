"""What a run left behind, read back; whatever is missing is empty."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarddance.core.errors import DataError
from rewarddance.evaluation.evaluation_file import EVALUATION_NAME
from rewarddance.evaluation.judgement_rows import ROWS_NAME, JudgementRow, read_rows


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
        metrics: Lines of `metrics.jsonl`.
        evaluations: Those in the folder and in the folders directly below it.
    """

    name: str
    config: str
    environment: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    evaluations: tuple[StoredEvaluation, ...]


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
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        environment=_json(environment) if environment.is_file() else {},
        metrics=_metrics(folder / "metrics.jsonl"),
        evaluations=tuple(_evaluation(place, folder) for place in places if (place / EVALUATION_NAME).is_file()),
    )
    if not (run.config or run.metrics or run.evaluations):
        raise DataError(
            f"{folder} holds no run: no config.yaml, metrics.jsonl or {EVALUATION_NAME}. Give a run's folder."
        )
    return run


def _evaluation(place: Path, run_folder: Path) -> StoredEvaluation:
    content = _json(place / EVALUATION_NAME)
    if not isinstance(content.get("report"), dict):
        raise DataError(f"{place / EVALUATION_NAME} holds no report. Evaluate again.")
    name = str(content.get("name") or run_folder.resolve().name)
    return StoredEvaluation(name=name, content=content, rows=tuple(read_rows(place / ROWS_NAME)))


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}. Restore it, or leave this run out.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} does not hold named values. Restore it, or leave this run out.")
    return content


def _metrics(path: Path) -> tuple[Mapping[str, Any], ...]:
    if not path.is_file():
        return ()
    lines, rows = path.read_text(encoding="utf-8").splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):  # the run is being written, or was killed
                break
            raise DataError(f"{path}, line {number}, is not JSON. Restore it, or leave this run out.") from error
    return tuple(rows)
