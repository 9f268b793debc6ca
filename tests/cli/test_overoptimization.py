import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rewarddance.metrics.overoptimization import best_of_n_mean
from rewarddance.serving.manifest import Manifest
from tests.cli.command_line import error_of, run
from tests.tiny_generators import tiny_generator_folder
from tests.tiny_models import save_tiny_model

ASKED = ("--instruction", "brief", "--kind", "pointwise")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished best-of-4 search of three prompts, and a second reward model."""
    folder = tmp_path_factory.mktemp("workplace")
    save_tiny_model("internvl", folder / "model")
    save_tiny_model("qwen3_vl", folder / "second")
    tiny_generator_folder("sd3", folder / "generator")
    (folder / "prompts.txt").write_text("a red circle\na blue square\ntwo dogs\n")
    assert search(folder, folder / "found", "--keep", "all") == 0
    return folder


def search(folder: Path, out: Path, *options: object) -> int:
    words = ("search", "best-of-n", folder / "generator", folder / "model", folder / "prompts.txt", "--out", out)
    return run(*words, "--steps", 2, "--candidates", 4, *ASKED, *options)


@pytest.fixture
def found(workplace: Path, tmp_path: Path) -> Path:
    return shutil.copytree(workplace / "found", tmp_path / "found")


def test_the_curve_is_that_of_the_second_judge_on_the_pictures_that_the_first_one_likes(workplace, found: Path):
    assert run("overoptimization", found, workplace / "second", *ASKED) == 0

    folder = found / "overoptimization"
    lines = [json.loads(line) for line in (folder / "judgements.jsonl").read_text().splitlines()]
    judged = np.array([line["reward"] for line in lines]).reshape(3, 4)
    rows = [json.loads(line) for line in (found / "rows.jsonl").read_text().splitlines()]
    proxy = np.array([[one["reward"] for one in row["candidates"]] for row in rows])
    (curve,) = json.loads((folder / "curve.json").read_text())["curves"]
    for point in curve["points"]:
        means = [best_of_n_mean(own, other, point["n"]) for own, other in zip(proxy, judged, strict=True)]
        assert point["gold"]["estimate"] == pytest.approx(np.mean(means))
    assert [point["n"] for point in curve["points"]] == [1, 2, 4]
    assert "second judge" in (folder / "report.html").read_text()


def test_what_was_judged_is_not_asked_again(workplace, found: Path, monkeypatch: pytest.MonkeyPatch):
    assert run("overoptimization", found, workplace / "second", *ASKED) == 0
    monkeypatch.setattr(Manifest, "request", None)
    assert run("overoptimization", found, workplace / "second", *ASKED, "--json") == 0


def test_the_model_that_was_followed_is_no_second_judge(workplace, found: Path, capsys):
    message = error_of(capsys, "overoptimization", found, workplace / "model", *ASKED, code=2)
    assert "is the reward model that the search followed" in message
    # by other criteria it is another judge
    assert run("overoptimization", found, workplace / "model", "--kind", "pointwise", "--instruction", "none") == 0


def test_judgements_of_another_search_are_not_taken_for_this_one(workplace, tmp_path: Path, capsys):
    asked = ("overoptimization", tmp_path / "found", workplace / "second", *ASKED, "--out", tmp_path / "curve")
    assert search(workplace, tmp_path / "found", "--keep", "all", "--seed", 1) == 0
    assert run(*asked) == 0
    # other pictures, by the same names
    shutil.rmtree(tmp_path / "found")
    assert search(workplace, tmp_path / "found", "--keep", "all", "--seed", 2) == 0
    assert "choose another --out" in error_of(capsys, *asked, code=2)


def test_a_pairwise_judge_needs_reference_images(workplace, found: Path, capsys):
    assert "--references" in error_of(capsys, "overoptimization", found, workplace / "second", code=2)


def test_a_tournament_gives_no_scores_to_follow(workplace, tmp_path: Path, capsys):
    assert search(workplace, tmp_path / "held", "--verify", "round-robin") == 0
    error = error_of(capsys, "overoptimization", tmp_path / "held", workplace / "second", *ASKED, code=2)
    assert "search by scores" in error


def test_winners_alone_are_no_curve(workplace, tmp_path: Path, capsys):
    assert search(workplace, tmp_path / "few", "--keep", "winners") == 0
    error = error_of(capsys, "overoptimization", tmp_path / "few", workplace / "second", *ASKED, code=2)
    assert "--keep all" in error


def test_a_folder_without_a_search_is_an_error(workplace, tmp_path: Path, capsys):
    assert "holds no search" in error_of(capsys, "overoptimization", tmp_path, workplace / "second", code=1)


def test_a_picture_without_a_judgement_takes_no_part_and_is_counted(workplace, found: Path, capsys):
    picture = next((found / "candidates").iterdir())
    picture.write_bytes(b"no picture")
    assert run("overoptimization", found, workplace / "second", *ASKED, "--json") == 1
    curve = json.loads(capsys.readouterr().out)
    assert (curve["n_failed"], curve["n_left_out"], curve["n_prompts"]) == (1, 1, 2)


def test_a_search_that_was_cut_short_is_no_curve(workplace, found: Path, capsys):
    (found / "summary.json").unlink()
    error = error_of(capsys, "overoptimization", found, workplace / "second", *ASKED, code=1)
    assert "is not finished" in error
    assert not (found / "overoptimization").exists()


def test_too_few_candidates_are_refused_before_a_judge_is_loaded(workplace, tmp_path: Path, capsys):
    assert search(workplace, tmp_path / "two", "--candidates", 2) == 0
    error = error_of(capsys, "overoptimization", tmp_path / "two", tmp_path / "nowhere", *ASKED, code=2)
    assert "a curve needs 4 at least" in error
