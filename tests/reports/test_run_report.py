import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.types import Comparison, Judgement, JudgementRequest, Media, Status
from rewarddance.evaluation.evaluation_file import Provenance, write_evaluation
from rewarddance.evaluation.preference_accuracy import ReportSettings, evaluate
from rewarddance.reports.run_report import report_run

QUICK = ReportSettings(resamples=50)


class BrightnessJudge:
    """Prefers what its file name calls lighter."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def judge(self, requests: list[JudgementRequest], *, order_mode: str = "two") -> list[Judgement]:
        return [self._judge(request) for request in requests]

    def _judge(self, request: JudgementRequest) -> Judgement:
        first, second = (int(media.path.stem) for media in (request.reference_image, request.candidate))
        return Judgement(status=Status.OK, score=0.5, reward=self.scale * (second - first) / 100)


def run_folder(tmp_path: Path, name: str, scale: float = 1.0) -> Path:
    """A run with every file that a report reads."""
    media = tmp_path / "media"
    media.mkdir(exist_ok=True)
    for level in range(0, 250, 25):
        Image.new("RGB", (8, 8), (level, level, level)).save(media / f"{level}.png")
    comparisons = [
        Comparison(
            id=f"c{level}",
            prompt=f"<b>prompt</b> {level}",
            first=Media(media / f"{level}.png"),
            second=Media(media / f"{level + 25}.png"),
            choice="second" if level % 50 else "first",
        )
        for level in range(0, 225, 25)
    ]
    folder = tmp_path / name
    split = ["in_domain"] * 5 + ["out_of_domain"] * 4
    report = evaluate(
        BrightnessJudge(scale),
        comparisons,
        gold=[0.2] * 9,
        facets={"split": split},
        settings=QUICK,
        rows_path=folder / "judgements.jsonl",
    )
    write_evaluation(folder, report, Provenance(name=name, command="rewarddance evaluate <model>"))
    rows = [{"optimizer_step": step, "loss": 1 / step, "data_sha256": "ab", "accuracy": None} for step in range(1, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text("model:\n  base: small\n")
    (folder / "environment.json").write_text(json.dumps({"seed": 7, "versions": {"torch": "2.13.0"}}))
    return folder


def report_of(tmp_path: Path, *folders: Path) -> str:
    return report_run(folders, tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_full_run_has_every_section(tmp_path: Path) -> None:
    html = report_of(tmp_path, run_folder(tmp_path, "pairwise"))
    titles = [
        "Key figures",
        "Accuracy",
        "Position bias",
        "Calibration",
        "Judged images",
        "Training",
        "Environment and config",
    ]
    assert [title for title in titles if f"<h2>{title}</h2>" in html] == titles
    assert "rewarddance evaluate &lt;model&gt;" in html
    assert "&lt;b&gt;prompt&lt;/b&gt;" in html
    assert "<b>prompt</b>" not in html


def test_two_runs_are_compared(tmp_path: Path) -> None:
    html = report_of(tmp_path, run_folder(tmp_path, "pairwise"), run_folder(tmp_path, "scalar", scale=-1.0))
    assert "Model against model" in html
    assert "scalar \u2212 pairwise" in html


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "model")
    assert "model (2)" in report_of(tmp_path, run, run)


def test_evaluations_below_the_run_are_found(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "model")
    (run / "evaluation").mkdir()
    (run / "evaluation.json").rename(run / "evaluation" / "evaluation.json")
    assert "<h2>Accuracy</h2>" in report_of(tmp_path, run)


def test_a_run_that_was_only_trained_has_training_figures(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "model")
    (run / "evaluation.json").unlink()
    html = report_of(tmp_path, run)
    assert "<h2>Accuracy</h2>" not in html
    assert "at step 29, the last" in html


def test_missing_images_leave_the_strips_out(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "model")
    for path in (tmp_path / "media").iterdir():
        path.unlink()
    assert "Judged images" not in report_of(tmp_path, run)


def test_a_run_that_is_being_written_can_be_reported_on(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "model")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"optimizer_step": 30, "lo')
    assert "<h2>Training</h2>" in report_of(tmp_path, run)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "model")
    (run / "evaluation.json").write_text("{")
    with pytest.raises(DataError, match=r"evaluation\.json is not JSON"):
        report_of(tmp_path, run)


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no run"):
        report_of(tmp_path, tmp_path)


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run"):
        report_of(tmp_path)


def test_reports_metrics_and_evaluation_import_no_torch() -> None:
    code = (
        "import sys, rewarddance.reports.run_report, rewarddance.evaluation.preference_accuracy, "
        "rewarddance.metrics.ranking; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def spoiled_line(tmp_path: Path, name: str, number: int, change: Callable[[dict], object]) -> str:
    """What a report says of a run in one of whose lines something has changed."""
    file = run_folder(tmp_path, "spoiled") / name
    lines = file.read_text().splitlines()
    lines[number - 1] = json.dumps(change(json.loads(lines[number - 1])))
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as refusal:
        report_of(tmp_path, file.parent)
    return str(refusal.value).removeprefix(str(file))


def without(key: str) -> Callable[[dict], dict]:
    return lambda row: {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize("number", [1, 9])  # the ninth is the last, and whole
def test_a_judgement_that_lacks_something_is_named_with_its_line(number: int, tmp_path: Path) -> None:
    said = spoiled_line(tmp_path, "judgements.jsonl", number, without("forward"))
    assert said == f", line {number}, has no forward. Delete the file to ask again."


def test_a_judgement_that_is_a_bare_text_is_named_with_its_line(tmp_path: Path) -> None:
    assert ", line 2, does not hold named values" in spoiled_line(tmp_path, "judgements.jsonl", 2, lambda row: "row")


def test_an_evaluation_that_lacks_a_figure_is_named_with_the_figure(tmp_path: Path) -> None:
    file = run_folder(tmp_path, "spoiled") / "evaluation.json"
    content = json.loads(file.read_text())
    del content["report"]["overall"]["accuracy"]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"evaluation\.json: its report has no overall\.accuracy\. Evaluate again"):
        report_of(tmp_path, file.parent)


def test_figures_that_are_not_defined_are_no_damage(tmp_path: Path) -> None:
    file = run_folder(tmp_path, "spoiled") / "evaluation.json"
    content = json.loads(file.read_text())
    content["report"]["overall"]["accuracy"] |= {"estimate": None, "low": None, "high": None}
    file.write_text(json.dumps(content))
    assert "<h2>Accuracy</h2>" in report_of(tmp_path, file.parent)


@pytest.mark.parametrize("row", ['{"optimizer_step": "first", "loss": 1}', '{"loss": 1}', '{"optimizer_step": NaN}'])
def test_a_logged_line_without_its_step_is_named(tmp_path: Path, row: str) -> None:
    folder = run_folder(tmp_path, "spoiled")
    (folder / "metrics.jsonl").write_text(f'{{"optimizer_step": 1, "loss": 1}}\n{row}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2, has no optimizer_step"):
        report_of(tmp_path, folder)


def test_a_log_that_is_no_text_is_named_with_its_line(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "spoiled")
    (folder / "metrics.jsonl").write_bytes(b'{"optimizer_step": 1}\n\xff\xfe\n{"optimizer_step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2, is not JSON"):
        report_of(tmp_path, folder)
