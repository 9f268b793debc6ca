import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rewarddance.core.files import write_json_atomic
from rewarddance.rewards.loading import new_reward_model
from tests.chat_server import chat_server, model_answers
from tests.cli.command_line import contents, error_of, run
from tests.tiny_generators import tiny_generator_folder
from tests.tiny_models import save_tiny_model

FEW = ("--steps", 4, "--instruction", "brief", "--kind", "pointwise")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny generator, a tiny reward model, and two prompts."""
    folder = tmp_path_factory.mktemp("workplace")
    save_tiny_model("internvl", folder / "model")
    tiny_generator_folder("sd3", folder / "generator")
    (folder / "prompts.txt").write_text("a red circle\na blue square\n")
    return folder


def words(workplace: Path, algorithm: str, out: Path, *options: object, prompts: str = "prompts.txt"):
    return (
        "search",
        algorithm,
        workplace / "generator",
        workplace / "model",
        workplace / prompts,
        "--out",
        out,
        *options,
    )


@pytest.fixture(scope="module")
def found(workplace: Path) -> Path:
    out = workplace / "found"
    assert run(*words(workplace, "best-of-n", out, *FEW, "--candidates", 3)) == 0
    return out


def test_winners_scores_a_contact_sheet_and_the_budget_are_written(found: Path):
    rows = [json.loads(line) for line in (found / "rows.jsonl").read_text().splitlines()]
    assert [len(row["candidates"]) for row in rows] == [3, 3]
    assert len(list((found / "winners").glob("*.png"))) == 2
    assert np.asarray(Image.open(found / "contact_sheet.png")).shape[1] > 100
    budget = json.loads((found / "budget.json").read_text())
    assert budget["spent"] == budget["stated"] == {"velocities": 24, "decodes": 6, "judgements": 6}


def test_what_is_there_is_not_searched_again(workplace: Path, found: Path, capsys: pytest.CaptureFixture[str]):
    before = contents(found)
    capsys.readouterr()
    assert run(*words(workplace, "best-of-n", found, *FEW, "--candidates", 3, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["prompts"], printed["resumed"]) == (2, 2)
    assert contents(found) == before


def test_other_settings_are_refused_before_a_model_is_loaded(
    workplace: Path, found: Path, capsys: pytest.CaptureFixture[str]
):
    message = error_of(capsys, *words(workplace, "best-of-n", found, *FEW, "--candidates", 4), code=2)
    assert "begun with another candidates" in message


def test_the_budget_is_stated_before_anything_is_made(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ("--paths", 2, "--branches", 2, "--levels", "0.7", "--renoise", 0.2, "--judge", workplace / "model")
    capsys.readouterr()
    assert run(*words(workplace, "paths", tmp_path / "out", *FEW, *options, "--dry-run", "--json")) == 0
    stated = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "out").exists()
    assert run(*words(workplace, "paths", tmp_path / "out", *FEW, *options)) == 0
    spent = json.loads((tmp_path / "out" / "budget.json").read_text())
    assert spent["spent"] == stated["all"]
    assert spent["watch_spent"]["velocities"] == stated["watching_at_most"]["velocities"]
    captured = capsys.readouterr()
    assert f"2 prompts: {stated['all']['velocities']} velocities" in captured.err
    assert "held-out judge: undecided" in captured.out


def test_particles_are_steered(workplace: Path, tmp_path: Path):
    options = ("--particles", 3, "--levels", "0.8", "--strength", 2, "--keep", "winners", "--limit", 1)
    assert run(*words(workplace, "particles", tmp_path, *FEW, *options)) == 0
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert sum(one["weight"] for one in row["candidates"]) == pytest.approx(1.0)
    assert not (tmp_path / "candidates").exists()


def test_a_pairwise_model_holds_a_knock_out(workplace: Path, tmp_path: Path):
    options = ("--steps", 2, "--candidates", 4, "--limit", 1)
    assert run(*words(workplace, "best-of-n", tmp_path / "out", *options)) == 0
    assert json.loads((tmp_path / "out" / "budget.json").read_text())["spent"]["judgements"] == 3


def test_a_pairwise_model_scores_against_references(workplace: Path, tmp_path: Path):
    made = ("references", workplace / "generator", workplace / "model", workplace / "prompts.txt")
    assert run(*made, "--out", tmp_path / "refs", "--candidates", 2, "--top", 1, "--steps", 2) == 0
    options = ("--steps", 2, "--candidates", 2, "--references", tmp_path / "refs")
    assert run(*words(workplace, "best-of-n", tmp_path / "out", *options)) == 0
    row = json.loads((tmp_path / "out" / "rows.jsonl").read_text().splitlines()[0])
    assert row["candidates"][0]["wins"] is None


def test_a_service_can_be_the_verifier(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    local = new_reward_model(workplace / "model", "pointwise", instruction="brief")
    local.save(tmp_path / "model")
    line = ("search", "best-of-n", workplace / "generator", tmp_path / "model", workplace / "prompts.txt")
    options = ("--steps", 2, "--candidates", 3, "--limit", 1)
    with chat_server(model_answers(local)) as server:
        served = ("--url", server.url, "--served-model", "tiny")
        assert run(*line, "--out", tmp_path / "served", *options, *served) == 0
        assert len(server.bodies) == 3
    assert run(*line, "--out", tmp_path / "local", *options) == 0
    served_row, local_row = (json.loads((tmp_path / name / "rows.jsonl").read_text()) for name in ("served", "local"))
    rewards = [[one["reward"] for one in row["candidates"]] for row in (served_row, local_row)]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)


def test_prompts_without_references_stop_the_search(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = ("references", workplace / "generator", workplace / "model", workplace / "prompts.txt")
    assert run(*made, "--out", tmp_path / "refs", "--candidates", 2, "--top", 1, "--steps", 2, "--limit", 1) == 0
    options = ("--references", tmp_path / "refs")
    message = error_of(capsys, *words(workplace, "best-of-n", tmp_path / "out", *options), code=2)
    assert "no reference image for 1 of the prompts, such as 'a blue square'" in message


def test_prompts_that_cannot_be_judged_are_listed_and_the_command_fails(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (workplace / "some.jsonl").write_text(
        json.dumps({"id": "long", "prompt": "square " * 3_000}) + '\n{"id": "short", "prompt": "a red circle"}\n'
    )
    line = words(workplace, "best-of-n", tmp_path / "out", *FEW, "--candidates", 2, prompts="some.jsonl")
    capsys.readouterr()
    assert run(*line) == 1
    printed = capsys.readouterr().out
    assert "2 prompts, 1 of them without a winner, 2 pictures could not be judged" in printed
    assert "long: none of 2 pictures could be judged: the question takes" in printed
    assert run(*line, "--max-failed-share", 0.5) == 0


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("best-of-n", ("--particles", 4), "--particles does not belong to `search best-of-n`"),
        ("paths", ("--candidates", 4), "--candidates does not belong to `search paths`"),
        ("paths", ("--levels", "0.5,high"), "noise levels are numbers"),
        ("paths", ("--levels", "0.4,0.6"), "noise levels fall"),
        ("paths", (*FEW, "--verify", "knock-out"), "a knock-out finds one winner"),
        ("particles", (), "particles are weighed by scores"),
        ("best-of-n", ("--verify", "score"), "a pairwise MODEL scores against references"),
        ("best-of-n", ("--height", 32), "--height and --width go together"),
        ("best-of-n", ("--instruction", "nonsense"), "nonsense"),
        ("best-of-n", ("--url", "http://127.0.0.1:9/v1"), "--url needs --served-model"),
        ("tournament", (), "best-of-n"),
    ],
)
def test_what_cannot_be_stops_the_command_and_leaves_nothing(
    workplace: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    algorithm: str,
    options: tuple[object, ...],
    message: str,
):
    out = tmp_path / "out"
    assert message in error_of(capsys, *words(workplace, algorithm, out, *options), code=2)
    assert not out.exists()


def test_a_search_with_another_judge_is_another_search(
    workplace: Path, found: Path, capsys: pytest.CaptureFixture[str]
):
    options = (*FEW, "--candidates", 3, "--judge", workplace / "model")
    assert "another judge" in error_of(capsys, *words(workplace, "best-of-n", found, *options), code=2)


def test_settings_of_a_folder_without_rows_bind_nobody(workplace: Path, tmp_path: Path):
    write_json_atomic(tmp_path / "settings.json", {"algorithm": "paths"})
    assert run(*words(workplace, "best-of-n", tmp_path, *FEW, "--candidates", 1, "--limit", 1)) == 0
