"""`rewarddance parity` and `rewarddance rationales`."""

import json
import os
import shutil
from pathlib import Path

import pytest

from rewarddance.data.comparisons import ComparisonSet
from rewarddance.lab.comparisons import draw_comparisons
from rewarddance.rewards.loading import load_reward_model
from rewarddance.rewards.protocol import RewardModel
from tests.chat_server import chat_server, model_answers, says
from tests.cli.command_line import contents, error_of, run
from tests.tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_comparisons(folder, {"train": 6}, seed=5)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RewardModel]:
    folder = tmp_path_factory.mktemp("models")
    base = load_reward_model(save_tiny_model("internvl", folder / "base"), device="cpu")
    base.save(folder / "model")
    return folder / "model", base


def test_parity_prints_the_largest_difference_and_keeps_the_questions(model, data, tmp_path, capsys):
    with chat_server(model_answers(model[1])) as server:
        code = run("parity", model[0], server.url, data, "--count", 2, "--out", tmp_path / "parity.json")
        again = run("parity", model[0], server.url, data, "--count", 2, "--out", tmp_path / "parity.json")

    assert (code, again) == (0, 0)
    assert "passed at a limit of 0.02" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "parity.json").read_text())) == 4
    assert {body["model"] for body in server.bodies} == {str(model[0])}


@pytest.mark.parametrize(
    ("name", "message"),
    [("pipe", "is not an ordinary file"), ("", "is a folder"), ("record.json", "holds something else already")],
)
def test_parity_asks_nothing_where_its_file_cannot_be_written(name, message, model, data, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "record.json").write_text("{}")
    words = ("parity", model[0], "http://127.0.0.1:9/v1", data, "--tries", 1, "--out", tmp_path / name)
    assert message in error_of(capsys, *words, code=2)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "record.json").read_text() == "{}"


def test_parity_with_another_model_exits_with_1(model, data, tmp_path, capsys):
    other = load_reward_model(save_tiny_model("internvl", tmp_path / "other", seed=1), device="cpu")
    with chat_server(model_answers(other)) as server:
        code = run("parity", model[0], server.url, data, "--count", 2, "--limit", "1e-9", "--json")

    found = json.loads(capsys.readouterr().out)
    assert code == 1
    assert not found["is_passed"]
    assert found["largest_score_difference"] > 1e-9


def test_parity_with_a_service_that_is_not_there_exits_with_1_and_says_so(model, data, capsys):
    code = run("parity", model[0], "http://127.0.0.1:9/v1", data, "--count", 1, "--tries", 1)

    assert code == 1
    assert "failed: unreachable: " in capsys.readouterr().err


def test_parity_needs_an_address(model, data, capsys):
    assert "is no address" in error_of(capsys, "parity", model[0], "localhost", data, code=2)


def test_the_lab_s_teacher_and_judge_keep_what_is_right(data, tmp_path, capsys):
    code = run("rationales", data, "--out", tmp_path, "--teacher", "lab:gold", "--json")

    found = json.loads(capsys.readouterr().out)
    kept = [one for one in ComparisonSet.open(tmp_path) if one.rationale is not None]
    assert code == 0
    assert found["kept"] == len(kept) > 0
    assert all(one.rationale.startswith("image 1 has ") for one in kept)
    assert found["comparisons"] == len(ComparisonSet.open(tmp_path)) == 6


@pytest.mark.parametrize("is_the_same", [True, False])
def test_rationales_do_not_replace_comparisons(is_the_same, data, tmp_path, capsys):
    copy = shutil.copytree(data, tmp_path / "copy")
    before = contents(copy)
    asked_about = copy if is_the_same else data
    message = error_of(capsys, "rationales", asked_about, "--out", copy, "--teacher", "lab:gold", code=2)
    assert "copy: holds comparisons already; choose another folder" in message
    assert contents(copy) == before


def test_rationales_go_on_in_their_own_folder_and_do_not_replace_it_when_it_is_read(data, tmp_path, capsys):
    words = ("--out", tmp_path / "out", "--teacher", "lab:gold")
    assert run("rationales", data, *words, "--limit", 3) == 0
    assert run("rationales", data, *words) == 0
    assert len(ComparisonSet.open(tmp_path / "out")) == 6
    assert "holds comparisons already" in error_of(capsys, "rationales", tmp_path / "out", *words, code=2)


def test_rationales_of_other_comparisons_are_not_replaced(data, tmp_path, capsys):
    words = ("--out", tmp_path / "out", "--teacher", "lab:gold")
    few = ("--train", 1, "--validation", 1, "--test", 1, "--seed", 5)
    assert run("lab", "draw", "--out", tmp_path / "other", *few) == 0
    assert run("rationales", data, *words) == 0
    before = contents(tmp_path / "out")
    message = error_of(capsys, "rationales", tmp_path / "other", *words, code=2)
    assert f"out: holds comparisons already; those of {data.resolve()} with rationales; choose another" in message
    assert contents(tmp_path / "out") == before


def test_rationales_of_a_file_of_another_name_are_written(data, tmp_path):
    file = shutil.copytree(data, tmp_path / "copy") / "comparisons.parquet"
    assert (
        run("rationales", file.rename(file.with_name("some.parquet")), "--out", tmp_path, "--teacher", "lab:gold") == 0
    )


def test_rationales_go_on_where_the_comparisons_lie_elsewhere_now_or_have_become_more(data, tmp_path):
    first, moved = shutil.copytree(data, tmp_path / "first"), tmp_path / "moved"
    words = ("--out", tmp_path / "out", "--teacher", "lab:gold")
    assert run("rationales", first, *words) == 0
    first.rename(moved)
    assert run("rationales", moved, *words) == 0
    shutil.rmtree(moved)
    assert run("lab", "draw", "--out", moved, "--train", 4, "--validation", 1, "--test", 1) == 0
    assert run("rationales", moved, *words) == 0


def test_a_draw_does_not_replace_comparisons(data, capsys):
    few, before = ("--train", 1, "--validation", 1, "--test", 1), contents(data)
    assert "holds comparisons already" in error_of(capsys, "lab", "draw", "--out", data, *few, code=2)
    assert contents(data) == before


def test_the_lab_s_wrong_rationales_are_dropped(data, tmp_path, capsys):
    run("rationales", data, "--out", tmp_path, "--teacher", "lab:gold", "--wrong-share", 1, "--json")

    assert json.loads(capsys.readouterr().out)["kept"] == 0


def test_what_became_of_planted_rationales_is_told(data, tmp_path, capsys):
    planted = ("rationales", data, "--out", tmp_path, "--teacher", "lab:gold", "--wrong-share", 0.5)
    run(*planted, "--json")
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["planted"] < found["written"]
    assert found["planted_kept"] == 0
    run(*planted)
    shown = capsys.readouterr().out
    assert (
        f"of the planted wrong ones, dropped                          {found['planted']} of {found['planted']}" in shown
    )
    run("rationales", data, "--out", tmp_path / "true", "--teacher", "lab:gold")
    assert "of the planted" not in capsys.readouterr().out


def test_a_served_teacher_also_reads_where_no_judge_is_named(data, tmp_path, capsys):
    def respond(body):
        text = body["messages"][0]["content"][0]["text"]
        return says("0" if "By these words" in text else "image 1 is dark.")

    with chat_server(respond) as server:
        code = run(
            "rationales", data, "--out", tmp_path, "--teacher", server.url, "--teacher-model", "big", "--limit", 3
        )

    assert code == 0
    assert {body["model"] for body in server.bodies} == {"big"}
    assert "share kept" in capsys.readouterr().out


def test_teacher_and_judge_can_be_told_other_fields_and_lengths(data, tmp_path, capsys):
    def respond(body):
        text = body["messages"][0]["content"][0]["text"]
        return says("2" if "By these words" in text else "image 1 is dark.")

    with chat_server(respond) as server:
        words = ["rationales", data, "--out", tmp_path, "--teacher", server.url, "--teacher-model", "big", "--limit", 3]
        words += ["--request-fields", '{"max_tokens": null, "max_completion_tokens": 2000, "temperature": null}']
        code = run(*words, "--judge-request-fields", '{"top_p": 0.5}', "--judge-max-tokens", 4000)
        both = list(server.bodies)
        same = run(*words)

    teacher = [body for body in both if "max_completion_tokens" in body]
    assert (code, same) == (0, 0)
    assert all("max_tokens" not in body and "temperature" not in body for body in teacher)
    assert [(body["max_tokens"], body["top_p"]) for body in both if body not in teacher] == [(4000, 0.5)]
    # Without fields of its own, the judge of the same service gets the teacher's.
    assert [body["max_completion_tokens"] for body in server.bodies[len(both) :]] == [2000]


def test_parity_sends_the_request_fields(model, data, capsys):
    with chat_server(model_answers(model[1])) as server:
        fields = '{"max_tokens": null, "max_completion_tokens": 1}'
        code = run("parity", model[0], server.url, data, "--count", 1, "--request-fields", fields)

    assert code == 0
    assert {(body.get("max_tokens"), body["max_completion_tokens"]) for body in server.bodies} == {(None, 1)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--teacher", "http://127.0.0.1:9/v1"], "--teacher-model is missing"),
        (["--teacher", "lab:gold", "--judge", "http://127.0.0.1:9/v1"], "--judge-model is missing"),
        (["--teacher", "http://127.0.0.1:9/v1", "--teacher-model", "m", "--wrong-share", "0.5"], "--wrong-share"),
        (["--teacher", "http://h/v1", "--teacher-model", "m", "--request-fields", "max_tokens=2"], "no JSON object"),
        (
            ["--teacher", "http://h/v1", "--teacher-model", "m", "--request-fields", '{"top_p": NaN}'],
            "--request-fields",
        ),
        (
            ["--teacher", "http://h/v1", "--teacher-model", "m", "--judge-request-fields", "[1]"],
            "--judge-request-fields",
        ),
        (["--teacher", "http://h/v1", "--teacher-model", "m", "--request-fields", '{"n": 2}'], "field n is not"),
        (["--teacher", "http://h/v1", "--teacher-model", "m", "--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_asked(words, said, data, tmp_path, capsys):
    assert said in error_of(capsys, "rationales", data, "--out", tmp_path / "out", *words, code=2)
    assert not (tmp_path / "out" / "exchanges.jsonl").exists()
