"""Runs that are killed at named points, resumed, killed again: in the end everything is as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parent / "kill_driver.py"

# 8 optimizer steps, checkpoints after 2, 4, 6, 8 and at a new best; `#2` means the second time the process comes there.
KILLS = {
    "before anything": ["step:started", "step:after-backward", "checkpoint:weights-written"],
    "in the optimizer's file": ["checkpoint:optimizer-written", "checkpoint:optimizer-written#2"],
    "manifest written, not renamed": ["checkpoint:manifest-written", "checkpoint:manifest-written"],
    "just renamed": ["checkpoint:renamed", "step:after-update"],
    "second save": ["checkpoint:progress-written#2", "checkpoint:weights-written"],
    "between saves": ["step:after-update#3", "step:after-backward#2", "step:after-update#5"],
    "around an evaluation": ["evaluation:finished", "checkpoint:started#2"],
    "while an old one is removed": ["checkpoint:retiring", "checkpoint:retired"],
    "while the model is written": ["model:written", "adapter:written"],
}
# Each of these switches one protection off and must show.
MUTANTS = {
    "optimizer forgotten": ["step:after-update#3"],
    "order forgotten": ["step:after-update#3"],
    "unstaged, unchecked": ["checkpoint:optimizer-written#2"],
}


def _stories():
    stories = [{"name": "uninterrupted", "stops": []}]
    stories += [{"name": name, "stops": [[point, "KILL"] for point in points]} for name, points in KILLS.items()]
    stories += [{"name": "asked to stop", "stops": [["step:after-backward#3", "TERM"]]}]
    stories += [{"name": "unstaged", "stops": [["checkpoint:optimizer-written#2", "KILL"]], "mutant": "unstaged"}]
    stories += [
        {"name": f"mutant {name}", "stops": [[point, "KILL"] for point in points], "mutant": name}
        for name, points in MUTANTS.items()
    ]
    return stories


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONPATH": str(DRIVER.parents[2])}
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder)],
        input=json.dumps(_stories()),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    errors = {path.parent.name: path.read_text(encoding="utf-8") for path in folder.glob("*/error.txt")}
    return {row["name"]: {**row, "folder": folder / row["name"], "error": errors.get(row["name"])} for row in rows}


def test_there_are_twenty_kills_and_at_least_five_fall_inside_a_save():
    points = [point for points in KILLS.values() for point in points]
    inside = [point for point in points if point.startswith("checkpoint:") and "-written" in point]
    assert len(points) >= 20
    assert len(inside) >= 5
    assert all(len(points) >= 2 for points in KILLS.values())


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_and_resumed_run_leaves_the_same_bits_as_an_uninterrupted_one(endings, name):
    assert endings[name]["ends"] == ["signal 9"] * len(KILLS[name]) + ["exit 0"], endings[name]["error"]
    assert endings[name]["digest"] == endings["uninterrupted"]["digest"]


def test_sigterm_saves_ends_with_zero_and_the_resumed_run_leaves_the_same_bits(endings):
    assert endings["asked to stop"]["ends"] == ["exit 0", "exit 0"], endings["asked to stop"]["error"]
    assert endings["asked to stop"]["digest"] == endings["uninterrupted"]["digest"]


def test_a_half_written_checkpoint_under_its_final_name_is_rejected_by_its_manifest(endings):
    assert endings["unstaged"]["digest"] == endings["uninterrupted"]["digest"]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_without_its_protection_a_killed_run_ends_differently(endings, mutant):
    assert endings[f"mutant {mutant}"]["digest"] != endings["uninterrupted"]["digest"]
