"""Where commands write: never over what is no file of theirs, and nothing is done before that is known."""

import json
import os
from pathlib import Path

import pytest
import typer.main

from rewarddance.cli.main import app
from tests.cli.command_line import contents, error_of, run


def options_by_command() -> dict[str, set[str]]:
    """The options of every command, by its words."""
    waiting, found = [("", typer.main.get_command(app))], {}
    while waiting:
        words, command = waiting.pop()
        inner = getattr(command, "commands", None)
        if inner is None:
            found[words.strip()] = {name for parameter in command.params for name in parameter.opts}
        else:
            waiting += [(f"{words} {name}", one) for name, one in inner.items()]
    return found


OUTPUTS = [
    (words, name) for words, names in options_by_command().items() for name in ("--out", "--results") if name in names
]


@pytest.mark.parametrize(("words", "option"), OUTPUTS)
def test_an_empty_name_is_no_place_to_write_to(words: str, option: str, capsys: pytest.CaptureFixture[str]):
    message = error_of(capsys, *words.split(), option, "", code=2)
    assert f"'{option}'" in message
    assert "is empty; give a name" in message
    assert "Value error" not in message


def test_every_command_that_writes_is_asked():
    assert len(OUTPUTS) > 15


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"optimizer_step": 1, "loss": 0.5}\n')
    return folder


def test_a_report_replaces_an_older_one_and_follows_a_link(run_folder: Path, tmp_path: Path):
    (tmp_path / "link.html").symlink_to(tmp_path / "page.html")
    for name in ("page.html", "page.html", "link.html"):
        assert run("report", run_folder, "--out", tmp_path / name) == 0
    assert (tmp_path / "link.html").is_symlink()
    assert not (tmp_path / "page.html").is_symlink()


def test_a_report_does_not_replace_what_it_is_about(run_folder: Path, capsys: pytest.CaptureFixture[str]):
    before = contents(run_folder)
    message = error_of(capsys, "report", run_folder, "--out", run_folder / "metrics.jsonl", code=2)
    assert "metrics.jsonl holds something else already; move it away, or give another name" in message
    assert contents(run_folder) == before


def test_a_report_replaces_no_pipe_and_no_folder(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    os.mkfifo(tmp_path / "pipe")
    assert "is not an ordinary file" in error_of(capsys, "report", run_folder, "--out", tmp_path / "pipe", code=2)
    assert "is a folder" in error_of(capsys, "report", run_folder, "--out", tmp_path, code=2)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["pipe", "folder"])
@pytest.mark.parametrize("words", [(), ("--workers", 1)])
def test_judgements_of_a_manifest_go_to_an_ordinary_file(
    name: str, words: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "candidate": "a.png"}) + "\n")
    asked = ("score", tmp_path / "model", "--manifest", tmp_path / "rows.jsonl", "--out", tmp_path / name, *words)
    assert f"{name} is " in error_of(capsys, *asked, code=2)
