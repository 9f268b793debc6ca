import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import rewarddance
from rewarddance.cli.main import app, main

HEAVY = ("torch", "transformers", "diffusers", "peft", "accelerate", "pydantic", "pyarrow", "numpy", "PIL")
HELP_SECONDS = 0.6


def error_of(capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    """Run a command that fails, check its exit code, and return its one line."""
    assert main([str(word) for word in words]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0

    text = capsys.readouterr().out
    assert all(verb in text for verb in ("import", "train", "evaluate", "score", "compare", "report", "config"))


def test_help_loads_no_library_that_is_not_needed_for_it():
    program = "import sys; from rewarddance.cli.main import main; main(['--help'])\n"
    program += f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert finished.stdout.splitlines()[-1] == "loaded: []"


def test_importing_the_package_loads_no_library():
    program = f"import sys, rewarddance; print([name for name in {HEAVY!r} if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert finished.stdout.strip() == "[]"


def test_help_is_there_at_once():
    # Processor time, the best of three: how busy the machine is does not matter.
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "rewarddance", "--help"], capture_output=True, check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)

    assert min(seconds) <= HELP_SECONDS


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rewarddance {rewarddance.__version__}\n"


def test_an_unknown_verb_is_bad_usage_with_a_suggestion(capsys: pytest.CaptureFixture[str]):
    assert "Did you mean 'score'?" in error_of(capsys, "scroe")


def test_an_unknown_option_is_bad_usage(capsys: pytest.CaptureFixture[str]):
    assert "--prmpt" in error_of(capsys, "score", "lab:nano", "--prmpt", "x")


def test_an_error_of_the_system_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "train.json").write_text("[]")
    (tmp_path / "file").write_text("")

    # The output folder would lie below a file.
    message = error_of(capsys, "import", "hpdv3", tmp_path, "--out", tmp_path / "file" / "out", code=1)

    assert "Not a directory" in message


def test_an_interruption_from_the_keyboard_ends_with_130():
    program = (
        "import rewarddance.cli.config as config, rewarddance.config.kinds as kinds, sys\n"
        "from rewarddance.cli.main import main\n"
        "class Interrupting(dict):\n"
        "    def __contains__(self, key): raise KeyboardInterrupt\n"
        "kinds.CONFIG_KINDS = Interrupting()\n"
        "sys.exit(main(['config', 'show', 'train']))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

    assert finished.returncode == 130
    assert b"Traceback" not in finished.stderr


def options_of(command: Any) -> Iterator[Any]:
    """Options of a command and of all below it."""
    for child in getattr(command, "commands", {}).values():
        yield from options_of(child)
    yield from command.params


@pytest.mark.parametrize("typed", ["nan", "inf", "-inf"])
def test_every_option_with_a_fraction_refuses_what_is_not_finite(typed: str):
    every = options_of(typer.main.get_command(app))
    found = [option for option in every if getattr(option.type_descriptor, "annotation", None) is float]
    assert len(found) > 20
    for option in found:
        assert option.callback is not None, option.name
        with pytest.raises(typer.BadParameter, match="not a finite number"):
            option.callback(typer.Context(typer.main.get_command(app)), option, float(typed))


@pytest.mark.parametrize("option", ["--guidance", "--renoise", "--levels"])
def test_a_number_that_is_not_finite_is_one_line(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    words = ("search", "paths", "lab:drawn", "lab:nano", tmp_path / "prompts.txt", "--out", tmp_path / "out")
    message = error_of(capsys, *words, option, "nan")
    assert "nan is not a finite number" in message or "noise levels are numbers" in message
    assert not (tmp_path / "out").exists()
