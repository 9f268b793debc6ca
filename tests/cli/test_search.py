import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rewarddance.core.files import write_json_atomic
from rewarddance.core.types import Comparison, Media
from rewarddance.rewards.loading import load_reward_model, new_reward_model
from rewarddance.rewards.parity import known_answers, write_parity
from tests.chat_server import ChatServer, chat_server, model_answers
from tests.cli.command_line import contents, error_of, run
from tests.tiny_generators import tiny_adapter_folder, tiny_generator_folder
from tests.tiny_models import save_tiny_model

SERVED = ("--url", "http://127.0.0.1:9/v1", "--served-model", "tiny")
FEW = ("--steps", 4, "--instruction", "brief", "--kind", "pointwise")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny generator, a tiny reward model, and two prompts."""
    folder = tmp_path_factory.mktemp("workplace")
    save_tiny_model("internvl", folder / "model")
    save_tiny_model("internvl", folder / "judge", seed=1)
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


def test_the_size_of_pictures_is_stored_as_before_there_were_clips(workplace: Path, tmp_path: Path):
    few = ("--steps", 1, "--candidates", 1, "--kind", "pointwise", "--limit", 1, "--height", 32, "--width", 32)
    assert run(*words(workplace, "best-of-n", tmp_path / "out", *few)) == 0
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["sampling"]["size"] == {
        "height": 32,
        "width": 32,
    }


def test_a_prompt_outside_the_generators_grammar_fails_alone(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "mixed.txt").write_text("a red circle\na dog\na blue square\n")
    places = ("lab:drawn", workplace / "model", tmp_path / "mixed.txt", "--out", tmp_path / "out")
    few = ("--steps", 1, "--candidates", 2, "--kind", "pointwise", "--judge", workplace / "judge")
    capsys.readouterr()
    for _ in range(2):
        assert run("search", "best-of-n", *places, *few, "--instruction", "brief") == 1
        printed = capsys.readouterr().out
        assert "3 prompts, 1 of them without a winner, 0 pictures could not be judged" in printed
        assert "  000001: this generator does not know the word 'dog' of 'a dog'" in printed


@pytest.mark.parametrize("place", ["winners", "candidates", "strips"])
@pytest.mark.parametrize("damage", ["gone", "cut off", "gone from an older row"])
def test_pictures_that_are_missing_or_damaged_are_made_again_as_they_were(
    workplace: Path, found: Path, tmp_path: Path, place: str, damage: str, capsys: pytest.CaptureFixture[str]
):
    out = shutil.copytree(found, tmp_path / "copy")
    before = contents(out)
    if damage == "gone from an older row":
        rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
        (out / "rows.jsonl").write_text(
            "".join(json.dumps({key: row[key] for key in row if key != "files"}) + "\n" for row in rows)
        )
    path = sorted((out / place).glob("*.png"))[-1]
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    capsys.readouterr()
    assert run(*words(workplace, "best-of-n", out, *FEW, "--candidates", 3, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == 1
    if damage == "gone from an older row":
        before["rows.jsonl"] = (out / "rows.jsonl").read_bytes()
    assert contents(out) == before


@pytest.mark.parametrize("change", [{"winner": ...}, {"unanswered_judgements": "x"}, {"candidates": [1]}, {"watch": 5}])
def test_a_row_of_the_wrong_shape_is_named(
    workplace: Path, found: Path, tmp_path: Path, change: dict[str, object], capsys: pytest.CaptureFixture[str]
):
    out = shutil.copytree(found, tmp_path / "copy")
    row = json.loads((out / "rows.jsonl").read_text().splitlines()[0]) | change
    row = {key: value for key, value in row.items() if value is not ...}
    (out / "rows.jsonl").write_text(json.dumps(row) + "\n")
    message = error_of(capsys, *words(workplace, "best-of-n", out, *FEW, "--candidates", 3), code=1)
    assert "rows.jsonl: line 1 is damaged; search again in another folder" in message


def test_other_settings_are_refused_before_a_model_is_loaded(
    workplace: Path, found: Path, capsys: pytest.CaptureFixture[str]
):
    message = error_of(capsys, *words(workplace, "best-of-n", found, *FEW, "--candidates", 4), code=2)
    assert "begun with another candidates" in message


def test_the_budget_is_stated_before_anything_is_made(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ("--paths", 2, "--branches", 2, "--levels", "0.7", "--renoise", 0.2, "--judge", workplace / "judge")
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


@pytest.fixture(scope="module")
def trained(workplace: Path) -> Path:
    """A reward model that is asked otherwise than an untrained one: pointwise, briefly."""
    new_reward_model(workplace / "model", "pointwise", instruction="brief").save(workplace / "trained")
    return workplace / "trained"


@pytest.fixture(scope="module")
def service(trained: Path) -> Iterator[ChatServer]:
    with chat_server(model_answers(load_reward_model(trained, device="cpu"))) as server:
        yield server


@pytest.fixture
def server(service: ChatServer) -> ChatServer:
    service.calm_down()
    return service


def served(workplace: Path, model: object, server: ChatServer, out: Path, *options: object):
    line = ("search", "best-of-n", workplace / "generator", model, workplace / "prompts.txt", "--out", out)
    few = ("--steps", 2, "--candidates", 3, "--limit", 1, "--tries", 1)
    return (*line, *few, "--url", server.url, "--served-model", "tiny", *options)


@pytest.mark.parametrize("record", [".", "rewarddance.json"], ids=["folder", "record_alone"])
def test_a_service_is_asked_as_the_model_s_record_says(
    workplace: Path, trained: Path, server: ChatServer, tmp_path: Path, record: str
):
    assert run(*served(workplace, trained / record, server, tmp_path / "served", "--top-logprobs", 7)) == 0
    assert [body["top_logprobs"] for body in server.bodies] == [7] * 3
    assert all("logprob_token_ids" in body for body in server.bodies)
    line = ("search", "best-of-n", workplace / "generator", trained, workplace / "prompts.txt")
    assert run(*line, "--out", tmp_path / "local", "--steps", 2, "--candidates", 3, "--limit", 1) == 0
    served_row, local_row = (json.loads((tmp_path / name / "rows.jsonl").read_text()) for name in ("served", "local"))
    rewards = [[one["reward"] for one in row["candidates"]] for row in (served_row, local_row)]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)


@pytest.mark.parametrize("model", ["no/such/folder", "somebody/some-hub-id"])
def test_a_served_model_without_a_record_is_not_asked_zero_shot_by_mistake(
    workplace: Path, server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
):
    message = error_of(capsys, *served(workplace, model, server, tmp_path / "out"), code=1)
    assert f"{model} does not exist; give the folder of the served model, or its rewarddance.json" in message
    assert server.bodies == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("some/hub-id", "--zero-shot"), ("lab:small",)], ids=["asked_for", "lab"])
def test_an_untrained_model_behind_a_service_is_asked_as_the_kind_says(
    workplace: Path, server: ChatServer, tmp_path: Path, words: tuple[str, ...]
):
    options = (*words[1:], "--kind", "pointwise", "--no-token-ids", "--request-fields", '{"top_logprobs": 1000}')
    assert run(*served(workplace, words[0], server, tmp_path, *options)) == 0
    assert [sum(part["type"] == "image_url" for part in body["messages"][0]["content"]) for body in server.bodies] == [
        1,
        1,
        1,
    ]
    assert not any("logprob_token_ids" in body for body in server.bodies)


def test_nothing_is_searched_with_a_service_that_scores_otherwise(
    workplace: Path, trained: Path, server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "blue.png")
    shown = Comparison("a", "a red square", Media(tmp_path / "red.png"), Media(tmp_path / "blue.png"), "first")
    questions = known_answers(load_reward_model(trained, device="cpu"), [shown], is_pairwise=False)
    write_parity(tmp_path / "right.json", questions)
    write_parity(tmp_path / "wrong.json", [replace(one, log_odds=2.0) for one in questions])
    out = tmp_path / "out"
    wrong = served(workplace, trained, server, out, "--parity", tmp_path / "wrong.json")
    assert "other weights" in error_of(capsys, *wrong, code=1)
    assert not out.exists()
    assert run(*served(workplace, trained, server, out, "--parity", tmp_path / "right.json")) == 0


def test_an_outage_of_the_service_fails_the_command_and_the_same_command_makes_up_for_it(
    workplace: Path, trained: Path, server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = served(workplace, trained, server, tmp_path, "--concurrency", 1)
    server.misbehave("503")
    assert run(*line) == 1
    assert "0: 1 judgements had no answer; the same command asks again" in capsys.readouterr().out
    server.lasting_mood = "503"
    assert run(*line) == 1
    assert "none of 3 pictures could be judged: server_error" in capsys.readouterr().out
    server.calm_down()
    assert run(*line, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["resumed"], printed["without_winner"], printed["unanswered"]) == (0, {}, {})
    assert len(list((tmp_path / "winners").iterdir())) == 1


def test_a_service_that_is_not_there_stops_the_search_and_leaves_no_line(
    workplace: Path, trained: Path, server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = served(workplace, trained, server, tmp_path, "--candidates", 20)
    server.lasting_mood = "hang_up"
    capsys.readouterr()
    assert run(*line) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the judge gave no answer 20 times in a row, at last: broken_off: ")
    assert (tmp_path / "rows.jsonl").read_text() == ""
    server.calm_down()
    assert run(*line) == 0


def test_a_service_that_refuses_everything_stops_the_search_and_binds_nobody(
    workplace: Path, trained: Path, server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    server.lasting_mood = "404"
    capsys.readouterr()
    assert run(*served(workplace, trained, server, tmp_path, "--candidates", 12, "--limit", 2)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    # the second prompt's eighth picture is the twentieth question
    assert last.startswith("error: the judge answered none of its first 2")
    assert "404" in last
    assert "mend the service, or how it is asked" in last
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1
    server.calm_down()
    # other settings than those that were begun with, and the prompt that was stored is asked again
    assert run(*served(workplace, trained, server, tmp_path, "--candidates", 3, "--limit", 2)) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [len(row["candidates"]) for row in rows][-2:] == [3, 3]
    assert all(row["winner"] is not None for row in rows[-2:])


def test_prompts_without_references_stop_the_search(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = ("references", workplace / "generator", workplace / "model", workplace / "prompts.txt")
    assert run(*made, "--out", tmp_path / "refs", "--candidates", 2, "--top", 1, "--steps", 2, "--limit", 1) == 0
    options = ("--references", tmp_path / "refs")
    message = error_of(capsys, *words(workplace, "best-of-n", tmp_path / "out", *options), code=2)
    assert "no reference image for 1 of the prompts, such as 'a blue square'" in message


def test_a_reference_image_that_is_another_picture_by_now_stops_the_search(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = ("references", workplace / "generator", workplace / "model", workplace / "prompts.txt")
    assert run(*made, "--out", tmp_path / "refs", "--candidates", 2, "--top", 1, "--steps", 2) == 0
    one, other = sorted((tmp_path / "refs").rglob("*.png"))[:2]
    one.write_bytes(other.read_bytes())
    options = ("--references", tmp_path / "refs")
    message = error_of(capsys, *words(workplace, "best-of-n", tmp_path / "out", *options), code=1)
    assert f"{one} is no longer the picture that was chosen" in message


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
        ("best-of-n", (*SERVED, "--adapter", "a"), "--adapter is for a MODEL that is loaded here"),
        ("best-of-n", (*SERVED, "--revision", "main"), "--revision is for a MODEL that is loaded here"),
        ("best-of-n", ("--parity", "parity.json"), "--parity is for a service; give --url as well"),
        ("best-of-n", (*SERVED, "--request-fields", "{"), "--request-fields '{' is no JSON object"),
        ("best-of-n", ("--no-token-ids",), "--no-token-ids is for a service; give --url as well"),
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


def test_a_trained_model_is_not_asked_zero_shot(
    workplace: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = ("search", "best-of-n", workplace / "generator", trained, workplace / "prompts.txt")
    message = error_of(capsys, *line, "--out", tmp_path / "out", *SERVED, "--zero-shot", code=2)
    assert "says how it is asked; leave --zero-shot out" in message


def test_a_search_with_another_judge_is_another_search(
    workplace: Path, found: Path, capsys: pytest.CaptureFixture[str]
):
    options = (*FEW, "--candidates", 3, "--judge", workplace / "judge")
    assert "another judge" in error_of(capsys, *words(workplace, "best-of-n", found, *options), code=2)


def test_a_model_is_not_its_own_held_out_judge(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    asked = ("--steps", 4, "--candidates", 2, "--judge", workplace / "model")
    message = error_of(capsys, *words(workplace, "best-of-n", tmp_path / "out", *asked), code=2)
    assert "is MODEL itself and would like whatever MODEL likes" in message


def test_more_references_than_are_kept_are_refused(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = ("references", workplace / "generator", workplace / "model", workplace / "prompts.txt")
    assert run(*made, "--out", tmp_path / "refs", "--candidates", 2, "--top", 1, "--steps", 2) == 0
    options = ("--steps", 2, "--candidates", 2, "--references", tmp_path / "refs", "--reference-count", 3)
    message = error_of(capsys, *words(workplace, "best-of-n", tmp_path / "out", *options), code=2)
    assert "--reference-count is 3" in message
    assert "keeps 1 of each prompt" in message


def test_rows_that_are_asked_again_bind_nobody(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    asked = (*FEW, "--candidates", 1, "--limit", 1)
    assert run(*words(workplace, "best-of-n", tmp_path, *asked)) == 0
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    other = (*FEW, "--candidates", 2, "--limit", 1)
    assert "another candidates" in error_of(capsys, *words(workplace, "best-of-n", tmp_path, *other), code=2)
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | {"unanswered_judgements": 1}) + "\n")
    assert run(*words(workplace, "best-of-n", tmp_path, *other)) == 0
    assert len(json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[-1])["candidates"]) == 2


def test_settings_of_a_folder_without_rows_bind_nobody(workplace: Path, tmp_path: Path):
    write_json_atomic(tmp_path / "settings.json", {"algorithm": "paths"})
    assert run(*words(workplace, "best-of-n", tmp_path, *FEW, "--candidates", 1, "--limit", 1)) == 0


def test_an_adapter_of_the_generator_makes_other_pictures_and_another_search(
    workplace: Path, found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    adapter = tiny_adapter_folder(workplace / "generator", tmp_path / "adapter")
    few = (*FEW, "--candidates", 3, "--generator-adapter", adapter)
    assert run(*words(workplace, "best-of-n", tmp_path / "out", *few)) == 0
    before, after = contents(found / "candidates"), contents(tmp_path / "out" / "candidates")
    assert not set(before.values()) & set(after.values())
    assert "generator" in error_of(capsys, *words(workplace, "best-of-n", found, *few), code=2)
