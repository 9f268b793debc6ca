"""The program as a user calls it, inside this process."""

from pathlib import Path

import pytest

from rewarddance.cli.main import main


def run(*words: object) -> int:
    """The exit code of a command."""
    return main([str(word) for word in words])


def error_of(capsys: pytest.CaptureFixture[str], *words: object, code: int) -> str:
    """The single line that a failing command writes, without anything else."""
    capsys.readouterr()
    assert run(*words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see later what has changed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
