import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rewarddance

PROGRAM = (sys.executable, "-m", "rewarddance")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "rün"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"optimizer_step": 1, "loss": 0.5}\n')
    return folder


def ascii_output(*words: object) -> str:
    finished = subprocess.run(
        [*PROGRAM, *map(str, words)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert finished.stderr == b""
    return finished.stdout.decode("ascii")


def test_characters_that_the_output_lacks_are_printed_as_escapes(run_folder: Path):
    assert "r\\xfcn/report.html" in ascii_output("report", run_folder)


def test_json_stays_json_where_the_output_lacks_characters(run_folder: Path):
    assert json.loads(ascii_output("report", run_folder, "--json")) == {"report": str(run_folder / "report.html")}


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_a_closed_stream_does_not_matter(closed: str):
    finished = subprocess.run(
        ["sh", "-c", f'"$0" -m rewarddance --version {closed}', sys.executable], capture_output=True, check=False
    )
    assert finished.returncode == 0
    assert finished.stdout.decode() == f"rewarddance {rewarddance.__version__}\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("--version",), ("config", "show", "train")])
def test_output_that_nobody_reads_ends_quietly_with_141(words: tuple[str, ...], unbuffered: str):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    reader, writer = os.pipe()
    os.close(reader)
    finished = subprocess.run([*PROGRAM, *words], stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (141, b"")


def test_a_pipe_to_somebody_else_that_breaks_is_an_error():
    program = (
        "import rewarddance.cli.config, rewarddance.config.kinds as kinds, sys\n"
        "from rewarddance.cli.main import main\n"
        "class Broken(dict):\n"
        "    def __contains__(self, key): raise BrokenPipeError(32, 'Broken pipe')\n"
        "kinds.CONFIG_KINDS = Broken()\n"
        "sys.exit(main(['config', 'show', 'train']))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (finished.returncode, finished.stderr) == (1, b"error: Broken pipe\n")
