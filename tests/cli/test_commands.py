"""The commands as a user of a public data set types them, on a tiny model of a real architecture."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.command_line import error_of, run
from tests.tiny_models import save_tiny_model

PAIRS = 12


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model, a published data set (bright pictures win), its import, and a trained model."""
    folder = tmp_path_factory.mktemp("workplace")
    save_tiny_model("internvl", folder / "base")
    write_hpdv3(folder / "published")
    assert run("import", "hpdv3", folder / "published", "--out", folder / "data") == 0
    assert run("train", write_config(folder), "--set", "epochs=1", "--out", folder / "run") == 0
    return folder


def write_hpdv3(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", PAIRS), ("test", 4)):
        rows = []
        for index in range(count):
            for name, brightness in (("bright", 180), ("dark", 20)):
                pixels = rng.integers(brightness, brightness + 60, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}{index}{name}.png")
            rows.append(
                {
                    "prompt": f"{split} scene {index}",
                    "path1": f"{split}{index}bright.png",
                    "path2": f"{split}{index}dark.png",
                    "model1": "a",
                    "model2": "b",
                }
            )
        (folder / f"{split}.json").write_text(json.dumps(rows))


def write_config(folder: Path) -> Path:
    path = folder / "train.yaml"
    path.write_text(f"model: {{base: {folder / 'base'}}}\ndata: {{train: {folder / 'data'}}}\nbatch_size: 4\n")
    return path


def output_of(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    capsys.readouterr()
    assert run(*words) == code
    return capsys.readouterr().out


def test_a_run_directory_is_complete(workplace: Path):
    names = {path.name for path in (workplace / "run").iterdir()}

    assert {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "model"} <= names


def test_a_run_is_not_overwritten(workplace: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "train", write_config(workplace), "--out", workplace / "run", code=2)

    assert "--resume" in message


def test_evaluate_writes_every_figure_and_every_answer(workplace: Path, capsys: pytest.CaptureFixture[str]):
    out = workplace / "evaluation"
    text = output_of(
        capsys, "evaluate", workplace / "run" / "model", workplace / "data", "--split", "test", "--out", out, "--json"
    )

    report = json.loads(text)
    assert report["overall"]["n"] == 4
    assert json.loads((out / "evaluation.json").read_text())["report"] == report
    assert len((out / "judgements.jsonl").read_text().splitlines()) == 4


def test_evaluate_prints_a_table_for_people(workplace: Path, capsys: pytest.CaptureFixture[str]):
    text = output_of(capsys, "evaluate", workplace / "base", workplace / "data", "--split", "test")

    assert text.startswith("4 comparisons, 0 ties, 0 failed")
    assert "accuracy (ties dropped, failures wrong)" in text


def test_score_judges_one_medium_with_an_untrained_model(workplace: Path, capsys: pytest.CaptureFixture[str]):
    pictures = workplace / "published"
    words = ("score", workplace / "base", "--prompt", "a scene", "--candidate", pictures / "test0bright.png")

    judgement = json.loads(output_of(capsys, *words, "--reference-image", pictures / "test0dark.png", "--json"))

    assert judgement["status"] == "ok"
    assert 0 <= judgement["score"] <= 1


def test_score_judges_a_manifest_and_counts_what_failed(workplace: Path, capsys: pytest.CaptureFixture[str]):
    pictures = workplace / "published"
    (pictures / "broken.png").write_bytes(b"not an image")
    rows = [
        {"prompt": "a scene", "candidate": name, "reference_image": "test0dark.png", "id": name}
        for name in ("test0bright.png", "broken.png", "test1bright.png")
    ]
    (pictures / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("score", workplace / "base", "--manifest", pictures / "rows.jsonl", "--out", workplace / "judged.jsonl")

    assert run(*words) == 1
    assert run(*words, "--max-failed-share", "0.5") == 0  # 1 of 3

    judged = [json.loads(line) for line in (workplace / "judged.jsonl").read_text().splitlines()]
    assert [row["status"] for row in judged] == ["ok", "unreadable_media", "ok"]
    assert [row["id"] for row in judged] == ["test0bright.png", "broken.png", "test1bright.png"]
    assert judged[1]["score"] is None


def test_a_manifest_is_not_continued_with_another_model(workplace: Path, capsys: pytest.CaptureFixture[str]):
    pictures, out = workplace / "published", workplace / "one_model.jsonl"
    row = {"prompt": "a scene", "candidate": "test0bright.png", "reference_image": "test0dark.png"}
    (pictures / "row.jsonl").write_text(json.dumps(row))
    assert run("score", workplace / "base", "--manifest", pictures / "row.jsonl", "--out", out) == 0

    message = error_of(
        capsys, "score", workplace / "run" / "model", "--manifest", pictures / "row.jsonl", "--out", out, code=2
    )

    assert "another manifest, model or instruction" in message


def test_compare_prints_a_ranking_table(workplace: Path, capsys: pytest.CaptureFixture[str]):
    pictures = [workplace / "published" / name for name in ("test0bright.png", "test0dark.png", "test1dark.png")]

    lines = output_of(capsys, "compare", workplace / "run" / "model", "--prompt", "a scene", *pictures).splitlines()

    assert lines[0].split() == ["place", "image", "wins", "mean", "reward"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]
    wins = [float(line.split()[2]) for line in lines[1:]]
    assert wins == sorted(wins, reverse=True)
    assert sum(wins) == 3  # three pairs


def test_compare_says_which_image_could_not_be_judged(workplace: Path, capsys: pytest.CaptureFixture[str]):
    pictures = workplace / "published"
    (pictures / "broken.png").write_bytes(b"not an image")

    text = output_of(
        capsys,
        "compare",
        workplace / "base",
        "--prompt",
        "a scene",
        pictures / "test0bright.png",
        pictures / "broken.png",
        pictures / "test1dark.png",
        code=1,
    )

    assert text.splitlines()[-1].split()[0] == "-"
    assert "broken.png" in text.splitlines()[-1]


def test_report_writes_one_page(workplace: Path, capsys: pytest.CaptureFixture[str]):
    text = output_of(capsys, "report", workplace / "run")

    assert text.strip() == str(workplace / "run" / "report.html")
    assert (workplace / "run" / "report.html").read_text().startswith("<!doctype html>")


def test_import_reports_what_train_and_test_share(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_hpdv3(tmp_path / "published")
    (tmp_path / "published" / "test.json").write_text((tmp_path / "published" / "train.json").read_text())
    capsys.readouterr()

    assert run("import", "hpdv3", tmp_path / "published", "--out", tmp_path / "data") == 0

    assert f"{PAIRS} of {PAIRS} records of 'test' share a prompt or a medium" in capsys.readouterr().err
    assert json.loads((tmp_path / "data" / "split_check.json").read_text())["test"]["is_clean"] is False


def test_an_unknown_config_key_stops_before_a_model_is_loaded(workplace: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "train", write_config(workplace), "--set", "optimizer.learning_rat=1", code=2)

    assert "did you mean 'optimizer.learning_rate'?" in message


def test_a_missing_model_folder_is_one_line(workplace: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "evaluate", workplace / "absent", workplace / "data", code=1)

    assert "absent" in message


def test_a_lab_model_is_trained_with_the_pixels_of_the_config(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rewarddance.lab.base_models.lab_base", lambda size: workplace / "base")
    monkeypatch.chdir(tmp_path)
    settings = [f"--set={setting}" for setting in ("model.base=lab:nano", "model.max_pixels=5000", "batch_size=12")]

    assert run("train", workplace / "train.yaml", *settings, "--out", "2026") == 0
    record = json.loads((tmp_path / "2026" / "model" / "rewarddance.json").read_text())
    assert record["media"]["max_pixels"] == 5000


def test_a_base_that_has_learned_no_preferences_is_warned_of(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("rewarddance.lab.base_models.lab_base", lambda size: workplace / "base")
    pictures = [workplace / "published" / name for name in ("test0bright.png", "test0dark.png")]
    assert run("compare", "lab:nano", "--prompt", "a red circle", *pictures) == 0
    assert "lab:nano has learned no preferences" in capsys.readouterr().err


def test_an_unknown_lab_model_is_bad_usage(workplace: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "evaluate", "lab:giant", workplace / "data", code=2)

    assert "giant" in message


def test_a_model_folder_with_a_pickle_is_refused(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save_tiny_model("internvl", tmp_path / "unsafe")
    (tmp_path / "unsafe" / "pytorch_model.bin").write_bytes(b"\x80\x04.")

    assert "pytorch_model.bin" in error_of(capsys, "evaluate", tmp_path / "unsafe", workplace / "data", code=1)


def test_an_empty_comparison_file_is_one_line(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "comparisons.parquet").write_bytes(b"")

    assert "comparisons.parquet" in error_of(capsys, "evaluate", workplace / "base", tmp_path, code=1)


def test_a_published_list_without_rows_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "train.json").write_text("[]")

    message = error_of(capsys, "import", "hpdv3", tmp_path, "--out", tmp_path / "out", code=1)

    assert "no comparisons in 0 rows" in message


def test_an_unknown_split_is_one_line(workplace: Path, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, "evaluate", workplace / "base", workplace / "data", "--split", "tset", code=1)

    assert "test" in message
    assert "train" in message


def test_one_image_cannot_be_compared(workplace: Path, capsys: pytest.CaptureFixture[str]):
    picture = workplace / "published" / "test0bright.png"

    assert "two or more" in error_of(capsys, "compare", workplace / "base", picture, "--prompt", "a scene", code=2)


def test_an_image_that_is_not_there_is_bad_usage(workplace: Path, capsys: pytest.CaptureFixture[str]):
    picture = workplace / "published" / "test0bright.png"

    message = error_of(capsys, "compare", workplace / "base", picture, "absent.png", "--prompt", "x", code=2)

    assert "absent.png" in message


def test_a_manifest_and_a_candidate_exclude_each_other(workplace: Path, capsys: pytest.CaptureFixture[str]):
    picture = workplace / "published" / "test0bright.png"

    message = error_of(capsys, "score", workplace / "base", "--candidate", picture, "--out", "x.jsonl", code=2)

    assert "--manifest and --out" in message


def test_an_unknown_kind_of_config_names_the_known_ones(capsys: pytest.CaptureFixture[str]):
    assert "choose one of train" in error_of(capsys, "config", "show", "trian", code=2)


def test_config_show_prints_every_key(capsys: pytest.CaptureFixture[str]):
    keys = json.loads(output_of(capsys, "config", "show", "train", "--json"))

    assert {key["path"]: key["default"] for key in keys}["seed"] == "0"
    assert all(key["meaning"] for key in keys)


def test_a_folder_without_a_run_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert str(tmp_path) in error_of(capsys, "report", tmp_path, code=1)
