"""Ray starts a dozen processes, so these are slow tests; without Ray they are skipped."""

import importlib.util
from pathlib import Path

import pytest

from rewarddance.cli.manifest import judge_manifest
from rewarddance.cli.manifest_job import judge_in_shards
from rewarddance.core.errors import UsageError
from rewarddance.serving.ray_workers import judge_on_ray
from tests.serving.shard_judges import judge_by_length, load_judge
from tests.serving.test_shards import crew, job_of, kill_at_random, lines_of, write_rows

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="the extra rewarddance[scale] is not installed")
# Ray's own deprecations and open sockets are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_option_says_what_to_install(tmp_path: Path):
    with pytest.raises(UsageError, match=r"install rewarddance\[scale\]"):
        judge_on_ray(job_of(tmp_path, ["a"]), load_judge, 1, "s", lambda done: None)


@needs_ray
@pytest.mark.slow
def test_the_output_on_ray_is_that_of_one_process_and_poison_is_quarantined(tmp_path: Path):
    prompts = [f"prompt {'x' * (number % 7)}" for number in range(14)]
    judge_manifest(lambda: judge_by_length, write_rows(tmp_path, prompts), tmp_path / "one.jsonl", 4)
    judge_in_shards(load_judge, write_rows(tmp_path, [*prompts, "poison"]), tmp_path / "ray.jsonl", crew(2, "local"))

    one, many = lines_of(tmp_path / "one.jsonl"), lines_of(tmp_path / "ray.jsonl")
    assert many[:-1] == one
    assert many[-1]["message"] == "quarantined: 3 workers died while judging this row"


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_kills_of_driver_and_actors_lose_and_double_nothing(tmp_path: Path, seed: int):
    lines = kill_at_random(tmp_path, seed, ray="local", rows=60, seconds=0.02, kills=2)

    assert [line["row"] for line in lines] == list(range(60))
    assert {line["status"] for line in lines} == {"ok"}
