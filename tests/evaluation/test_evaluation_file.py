import json
from pathlib import Path

import numpy as np

from rewarddance.evaluation.evaluation_file import Provenance, write_evaluation
from rewarddance.evaluation.preference_accuracy import ReportSettings, evaluate
from tests.evaluation.judges import TableJudge, comparison


def test_an_evaluation_names_its_model_command_and_versions(tmp_path: Path) -> None:
    report = evaluate(
        TableJudge({"a": 0.0, "b": 1.0}), [comparison("x", "a", "b", "second")], settings=ReportSettings(resamples=10)
    )
    path = write_evaluation(tmp_path / "new", report, Provenance(name="pairwise", command="rewarddance evaluate m d"))
    stored = json.loads(path.read_text())
    assert (stored["name"], stored["command"]) == ("pairwise", "rewarddance evaluate m d")
    assert stored["versions"]["numpy"] == np.__version__
    assert stored["report"] == report.to_json()
