"""Alignment runs that are killed at named points and resumed: in the end everything is as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parent / "alignment_kill_driver.py"
LORA = {"rank": 4}

# 8 optimizer steps; checkpoints at 0 (of the guard's first look), 2, 4, 6 and 8, evaluations at 0, 4 and 8.
SETTINGS = {
    "refl": {"method": "refl", "lora": LORA},
    "refl, all weights": {"method": "refl", "lora": None},
    "flow_grpo": {"method": "flow_grpo", "lora": LORA},
    "diffusion_nft": {"method": "diffusion_nft", "lora": LORA},
    "diffusion_nft, all weights": {"method": "diffusion_nft", "lora": None},
}
KILLS = {
    "refl": ["evaluation:finished", "checkpoint:optimizer-written#2", "step:after-update#3"],
    "refl, all weights": ["checkpoint:manifest-written#3", "generator:written"],
    "flow_grpo": ["rollout:judged#2", "checkpoint:weights-written#2"],
    "diffusion_nft": ["step:after-backward#4", "checkpoint:renamed#2"],
    "diffusion_nft, all weights": ["checkpoint:progress-written#2"],
}
# Each of these switches one protection off and must show.
MUTANTS = {
    "averages forgotten": ("diffusion_nft", "step:after-update#3"),
    "reward statistics forgotten": ("refl", "step:after-update#3"),
    "guard forgotten": ("refl", "step:after-update#6"),
    "references forgotten": ("refl", "step:after-update#6"),
}


def _stories():
    stories = [{"name": name, "stops": [], **settings} for name, settings in SETTINGS.items()]
    stories += [
        {"name": f"{name} killed", "stops": [[point, "KILL"] for point in points], **SETTINGS[name]}
        for name, points in KILLS.items()
    ]
    stories += [{"name": "asked to stop", "stops": [["rollout:judged#2", "TERM"]], **SETTINGS["flow_grpo"]}]
    stories += [
        {"name": f"mutant {mutant}", "stops": [[point, "KILL"]], "mutant": mutant, **SETTINGS[name]}
        for mutant, (name, point) in MUTANTS.items()
    ]
    return stories


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    root = DRIVER.parents[2]
    # The source of these tests, also where another one is installed.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(root), str(root / "src")))}
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
    return {row["name"]: {**row, "error": errors.get(row["name"])} for row in rows}


def test_there_are_ten_kills_and_at_least_four_fall_inside_a_save():
    points = [point for points in KILLS.values() for point in points]
    assert len(points) == 10
    assert sum("checkpoint:" in point and "-written" in point for point in points) >= 4


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_and_resumed_run_leaves_the_same_bits_as_an_uninterrupted_one(endings, name):
    killed = endings[f"{name} killed"]
    assert killed["ends"] == ["signal 9"] * len(KILLS[name]) + ["exit 0"], killed["error"]
    assert killed["digest"] == endings[name]["digest"]


def test_sigterm_saves_ends_with_zero_and_the_resumed_run_leaves_the_same_bits(endings):
    assert endings["asked to stop"]["ends"] == ["exit 0", "exit 0"], endings["asked to stop"]["error"]
    assert endings["asked to stop"]["digest"] == endings["flow_grpo"]["digest"]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_without_its_protection_a_killed_run_ends_differently(endings, mutant):
    ending, name = endings[f"mutant {mutant}"], MUTANTS[mutant][0]
    assert ending["ends"] == ["signal 9", "exit 0"], ending["error"]
    assert ending["digest"] != endings[name]["digest"]
