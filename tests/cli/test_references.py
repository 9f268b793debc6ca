import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewarddance.core.fingerprints import generator_fingerprint
from rewarddance.data.references import ReferenceStore
from rewarddance.rewards.loading import load_reward_model, new_reward_model
from tests.chat_server import ChatServer, chat_server, model_answers
from tests.cli.command_line import contents, error_of, run
from tests.tiny_generators import tiny_adapter_folder, tiny_generator_folder
from tests.tiny_models import save_tiny_model

FEW = ("--candidates", 3, "--top", 1, "--bottom", 1, "--steps", 2, "--instruction", "brief")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny generator, a tiny reward model, and two prompts."""
    folder = tmp_path_factory.mktemp("workplace")
    save_tiny_model("internvl", folder / "model")
    tiny_generator_folder("sd3", folder / "generator")
    (folder / "prompts.txt").write_text("a red circle\na blue square\n")
    return folder


@pytest.fixture(scope="module")
def made(workplace: Path) -> Path:
    assert run("references", *named(workplace), "--out", workplace / "references", *FEW) == 0
    return workplace / "references"


def named(workplace: Path, prompts: str = "prompts.txt") -> tuple[Path, ...]:
    return (workplace / "generator", workplace / "model", workplace / prompts)


def test_every_prompt_has_its_best_and_its_worst_picture(made: Path):
    store = ReferenceStore.open(made)
    for prompt in ("a red circle", "a blue square"):
        row = store.get(prompt)
        assert row is not None
        assert [one.kept for one in row.candidates] == ["top", None, "bottom"]
        assert [path.suffix for path in (store.best(prompt)[0].path, store.worst(prompt)[0].path)] == [".png", ".png"]


def test_what_is_there_is_not_made_again(workplace: Path, made: Path, capsys: pytest.CaptureFixture[str]):
    before = contents(made)
    capsys.readouterr()
    assert run("references", *named(workplace), "--out", made, *FEW, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "prompts": 2,
        "without_references": {},
        "failed_judgements": 0,
        "unanswered": {},
        "resumed": 2,
    }
    assert contents(made) == before


@pytest.mark.parametrize("damage", ["gone", "cut off", "another"])
def test_pictures_that_are_missing_or_damaged_are_made_again_as_they_were(
    workplace: Path, made: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
):
    out = shutil.copytree(made, tmp_path / "copy")
    before = contents(out)
    first, second, *_ = sorted((out / "generation-0000" / "images").glob("*.png"))
    spoil(damage, first, second)
    capsys.readouterr()
    assert run("references", *named(workplace), "--out", out, *FEW, "--json") == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == 1
    assert contents(out) == before


@pytest.mark.parametrize("row", [{"prompt": "a red circle"}, {"prompt": "a", "failures": 5, "candidates": 7}, [1, 2]])
def test_a_row_of_the_wrong_shape_is_named(
    workplace: Path, made: Path, tmp_path: Path, row: object, capsys: pytest.CaptureFixture[str]
):
    out = shutil.copytree(made, tmp_path / "copy")
    (out / "generation-0000" / "rows.jsonl").write_text(json.dumps(row) + "\n")
    message = error_of(capsys, "references", *named(workplace), "--out", out, *FEW, code=1)
    assert "rows.jsonl: line 1 is damaged; make the references again" in message


@pytest.mark.parametrize("how", ["gone", "a folder"])
def test_rows_without_their_settings_are_refused(
    workplace: Path, made: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
):
    out = shutil.copytree(made, tmp_path / "copy")
    (out / "generation-0000" / "settings.json").unlink()
    if how == "a folder":
        (out / "generation-0000" / "settings.json").mkdir()
    message = error_of(capsys, "references", *named(workplace), "--out", out, *FEW, code=1)
    assert "settings.json is missing or damaged; delete" in message


def spoil(damage: str, path: Path, other: Path) -> None:
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "cut off" else other.read_bytes())


def test_other_settings_are_refused_before_a_model_is_loaded(
    workplace: Path, made: Path, capsys: pytest.CaptureFixture[str]
):
    before = contents(made)
    message = error_of(capsys, "references", *named(workplace), "--out", made, *FEW, "--seed", 1, code=2)
    assert "begun with another seed" in message
    assert contents(made) == before


def test_prompts_that_cannot_be_judged_are_listed_and_the_command_fails(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    long = json.dumps({"id": "long", "prompt": "square " * 3_000})
    (workplace / "some.jsonl").write_text(long + '\n{"id": "short", "prompt": "a red circle"}\n')
    words = ("references", *named(workplace, "some.jsonl"), "--out", tmp_path / "out", *FEW)
    capsys.readouterr()
    assert run(*words) == 1
    printed = capsys.readouterr().out
    assert "2 prompts, 1 of them without references" in printed
    assert "long: only 0 of 3 candidates could be judged, and 2 are needed" in printed
    assert run(*words, "--max-failed-share", 0.5) == 0


def test_a_prompt_outside_the_generators_grammar_fails_alone(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "mixed.txt").write_text("a red circle\na dog\na blue square\n")
    words = ("references", "lab:drawn", workplace / "model", tmp_path / "mixed.txt", "--out", tmp_path / "out")
    few = ("--candidates", 2, "--top", 1, "--steps", 1)
    capsys.readouterr()
    for _ in range(2):
        assert run(*words, *few) == 1
        printed = capsys.readouterr().out
        assert "3 prompts, 1 of them without references, 0 failed" in printed
        assert "  000001: this generator does not know the word 'dog' of 'a dog'" in printed
    assert run(*words, *few, "--max-failed-share", 0.4) == 0


def test_half_a_character_in_a_prompt_is_named_before_any_work(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (workplace / "half.jsonl").write_text('{"prompt": "a red circle"}\n{"prompt": "\\ud800"}\n')
    words = ("references", *named(workplace, "half.jsonl"), "--out", tmp_path / "out", *FEW)
    assert "half.jsonl: line 2 holds half a character" in error_of(capsys, *words, code=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--height", 32), "--height and --width go together"),
        (("--top", 3, "--bottom", 1), "of 3 candidates, 3 best and 1 worst cannot be kept"),
        (("--candidates", 17), "less than or equal to 16"),
        (("--instruction", "nonsense"), "nonsense"),
    ],
)
def test_settings_that_cannot_be_stop_the_command_and_leave_nothing(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[object, ...], message: str
):
    out = tmp_path / "out"
    assert message in error_of(capsys, "references", *named(workplace), "--out", out, *FEW, *words, code=2)
    assert not out.exists()


def test_a_generator_that_does_not_exist_stops_the_command_and_leaves_nothing(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _, model, prompts = named(workplace)
    words = ("references", tmp_path / "none", model, prompts, "--out", tmp_path / "out", *FEW)
    assert "does not exist" in error_of(capsys, *words, code=1)
    assert not (tmp_path / "out").exists()


def test_the_lab_has_one_generator(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, model, prompts = named(workplace)
    words = ("references", "lab:nobody", model, prompts, "--out", tmp_path / "out")
    assert "nobody" in error_of(capsys, *words, code=2)


def test_a_generator_is_known_by_its_weights(tmp_path: Path):
    (tmp_path / "weights.safetensors").write_bytes(bytes(3 << 20))
    before = generator_fingerprint(str(tmp_path), None)
    (tmp_path / "weights.safetensors").write_bytes(bytes((3 << 20) - 1) + b"\1")
    assert generator_fingerprint(str(tmp_path), None) != before


def test_an_adapter_of_the_generator_makes_other_pictures_and_other_references(
    workplace: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    adapter = tiny_adapter_folder(workplace / "generator", tmp_path / "adapter")
    words = (*named(workplace), *FEW, "--generator-adapter", adapter)
    assert run("references", *words, "--out", tmp_path / "out") == 0
    pictures = "generation-0000/images"
    before, after = contents(made / pictures), contents(tmp_path / "out" / pictures)
    assert not set(before.values()) & set(after.values())
    assert "generator" in error_of(capsys, "references", *words, "--out", made, code=2)


@pytest.fixture(scope="module")
def trained(workplace: Path) -> Path:
    """A reward model that is asked otherwise than an untrained one: briefly."""
    new_reward_model(workplace / "model", "pairwise", instruction="brief", device="cpu").save(workplace / "trained")
    return workplace / "trained"


@pytest.fixture(scope="module")
def service(trained: Path) -> Iterator[ChatServer]:
    with chat_server(model_answers(load_reward_model(trained, device="cpu"))) as server:
        yield server


@pytest.fixture
def server(service: ChatServer) -> ChatServer:
    service.calm_down()
    return service


def served(workplace: Path, model: Path, out: Path, url: str, *options: object) -> tuple[object, ...]:
    line = ("references", workplace / "generator", model, workplace / "prompts.txt", "--out", out)
    few = ("--candidates", 3, "--top", 1, "--steps", 2, "--limit", 1)
    return (*line, *few, "--url", url, "--served-model", "tiny", "--tries", 1, *options)


@pytest.mark.parametrize("record", [".", "rewarddance.json"], ids=["folder", "record_alone"])
def test_a_service_chooses_the_pictures_that_its_model_chooses_here(
    workplace: Path, trained: Path, server: ChatServer, tmp_path: Path, record: str
):
    assert run(*served(workplace, trained / record, tmp_path / "served", server.url)) == 0
    assert len(server.bodies) == 6  # three pairs in both orders
    line = ("references", workplace / "generator", trained, workplace / "prompts.txt", "--out", tmp_path / "local")
    assert run(*line, "--candidates", 3, "--top", 1, "--steps", 2, "--limit", 1) == 0
    rows = [ReferenceStore.open(tmp_path / name).get("a red circle") for name in ("served", "local")]
    assert rows[0] is not None
    assert rows[1] is not None
    assert [one.seed for one in rows[0].candidates] == [one.seed for one in rows[1].candidates]
    rewards = [[one.reward for one in row.candidates] for row in rows if row is not None]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)


def test_references_of_another_service_are_not_taken_for_those_of_this_one(
    workplace: Path, trained: Path, server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(*served(workplace, trained, tmp_path, server.url)) == 0
    message = error_of(capsys, *served(workplace, trained, tmp_path, "http://127.0.0.1:9/v1"), code=2)
    assert "begun with another judge" in message


def test_an_outage_of_the_judge_is_made_up_for_by_the_same_command(
    workplace: Path, trained: Path, server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = served(workplace, trained, tmp_path, server.url, "--concurrency", 1)
    server.misbehave("503")
    assert run(*line) == 1
    assert "0: 1 judgements had no answer; the same command asks again" in capsys.readouterr().out
    assert run(*line) == 0


def test_options_of_a_service_without_one_are_refused(workplace: Path, capsys: pytest.CaptureFixture[str]):
    line = ("references", *named(workplace), "--out", workplace / "never", *FEW)
    assert "--top-logprobs is for a service; give --url as well" in error_of(capsys, *line, "--top-logprobs", 7, code=2)
    message = error_of(capsys, *line, "--url", "http://127.0.0.1:9/v1", code=2)
    assert "--url needs --served-model" in message
