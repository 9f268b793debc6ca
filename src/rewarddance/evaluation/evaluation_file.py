"""`evaluation.json`: a report with everything needed to trace its figures back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rewarddance.core.files import write_json_atomic
from rewarddance.evaluation.preference_report import PreferenceReport

EVALUATION_NAME = "evaluation.json"

_PACKAGES = ("rewarddance", "torch", "transformers", "numpy", "scipy")


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an evaluation comes from.

    Attributes:
        name: What a table calls the model.
        model: Path or id of the model.
        data: Path of the data set.
        command: The command line.
        extra: Anything else worth keeping, made of plain values.
    """

    name: str
    model: str | None = None
    data: str | None = None
    command: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


def write_evaluation(folder: Path, report: PreferenceReport, provenance: Provenance) -> Path:
    """Write `evaluation.json` into a folder, which is made if it is missing.

    Args:
        folder: The run's folder.
        report: The figures.
        provenance: Where they come from; date and versions are added.

    Returns:
        The path of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / EVALUATION_NAME
    content = {
        "name": provenance.name,
        "model": provenance.model,
        "data": provenance.data,
        "command": provenance.command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": package_versions(),
        **provenance.extra,
        "report": report.to_json(),
    }
    write_json_atomic(path, content)
    return path


def package_versions() -> dict[str, str | None]:
    """Installed versions of what decides a figure; None for what is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
