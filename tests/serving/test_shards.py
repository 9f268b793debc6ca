import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from rewarddance.cli.manifest import judge_manifest
from rewarddance.cli.manifest_job import Workers, judge_in_shards, visible_gpus
from rewarddance.core.errors import DataError, RewardDanceError, UsageError
from rewarddance.serving.local_workers import _Pool, _Worker
from rewarddance.serving.manifest import Manifest
from rewarddance.serving.shards import ShardJob, judge_shard, judge_shard_persistently, merge_shards
from tests.serving.shard_judges import (
    die_loading,
    judge_by_length,
    load_dying_before_the_first_row,
    load_gpu_teller,
    load_judge,
    load_nothing,
    load_on_a_full_disk,
)

ROOT = Path(__file__).parents[2]


class Died(BaseException):
    """The process is gone; nothing in it can catch that."""


def write_rows(folder: Path, prompts: Sequence[str]) -> Manifest:
    rows = [{"prompt": prompt, "candidate": "a.png", "id": f"id {number}"} for number, prompt in enumerate(prompts)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Manifest.open(folder / "rows.jsonl", None, "judge")


def job_of(folder: Path, prompts: Sequence[str], shard_rows: int = 100, batch_size: int = 3) -> ShardJob:
    job = ShardJob(write_rows(folder, prompts), folder / "out.shards", shard_rows, batch_size, max_deaths=3)
    job.open_folder()
    return job


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def crew(workers: int = 2, ray: str | None = None) -> Workers:
    return Workers(workers, ray, 0.0, shard_rows=4, batch_size=2, max_deaths=3)


def deadly(victims: dict[str, int], asked: list[list[str]]):
    """Dies on a prompt as often as it says."""

    def judge(requests):
        asked.append([request.prompt for request in requests])
        for request in requests:
            if victims.get(request.prompt, 0) > 0:
                victims[request.prompt] -= 1
                raise Died
        return judge_by_length(requests)

    return judge


def judge_through_deaths(job: ShardJob, judge, session: str = "s") -> int:
    """Starts a new worker after every death, as a driver does; gives the number of deaths."""
    deaths = 0
    while True:
        try:
            judge_shard(job, 0, judge, session)
        except Died:
            deaths += 1
        else:
            return deaths


def test_the_output_is_that_of_one_process(tmp_path: Path):
    manifest = write_rows(tmp_path, [f"prompt {'x' * (number % 7)}" for number in range(23)] + ["bad"])
    judge_manifest(lambda: judge_by_length, manifest, tmp_path / "one.jsonl", 4)

    summary = judge_in_shards(load_judge, manifest, tmp_path / "many.jsonl", crew(2))

    assert (tmp_path / "many.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert (summary.rows, summary.failed, summary.resumed) == (24, 1, 0)
    assert not (tmp_path / "many.jsonl.shards").exists()


def test_a_finished_output_needs_no_worker(tmp_path: Path):
    manifest = write_rows(tmp_path, ["a", "bad"])
    judge_manifest(lambda: judge_by_length, manifest, tmp_path / "out.jsonl", 4)

    summary = judge_in_shards(die_loading, manifest, tmp_path / "out.jsonl", crew())

    assert (summary.failed, summary.resumed) == (1, 2)


def test_an_output_that_one_process_began_is_not_continued_by_many(tmp_path: Path):
    manifest = write_rows(tmp_path, ["a", "b"])
    (tmp_path / "out.jsonl").write_bytes(b"")

    with pytest.raises(UsageError, match="without --workers"):
        judge_in_shards(load_judge, manifest, tmp_path / "out.jsonl", crew())


def test_what_was_judged_before_a_death_is_not_judged_again(tmp_path: Path):
    job, asked = job_of(tmp_path, list("abcdefgh")), []
    deaths = judge_through_deaths(job, deadly({"e": 1}, asked))

    counts = Counter(prompt for batch in asked for prompt in batch)
    assert deaths == 1
    assert {prompt for prompt, count in counts.items() if count > 1} == {"d", "e", "f"}


def test_the_rows_of_a_deadly_batch_are_judged_one_by_one_after_all_others(tmp_path: Path):
    job, asked = job_of(tmp_path, list("abcdefgh")), []
    judge_through_deaths(job, deadly({"b": 1}, asked))

    assert asked == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"], ["a"], ["b"], ["c"]]


def test_a_row_that_kills_its_workers_is_quarantined_after_so_many_deaths(tmp_path: Path):
    job, asked = job_of(tmp_path, ["a", "victim", "c", "d"]), []
    deaths = judge_through_deaths(job, deadly({"victim": 99}, asked))
    failed = merge_shards(job, tmp_path / "out.jsonl")

    lines = lines_of(tmp_path / "out.jsonl")
    assert (deaths, failed) == (3, 1)
    assert [line["status"] for line in lines] == ["ok", "failed", "ok", "ok"]
    assert lines[1]["message"] == "quarantined: 3 workers died while judging this row"


def test_without_quarantine_the_deaths_would_not_end(tmp_path: Path):
    job, asked = job_of(tmp_path, ["a", "victim"]), []
    patient = ShardJob(job.manifest, job.folder, job.shard_rows, job.batch_size, max_deaths=10**9)
    judge = deadly({"victim": 20}, asked)

    assert judge_through_deaths(patient, judge) == 20


def test_being_in_flight_when_the_driver_was_stopped_is_no_death(tmp_path: Path):
    job, asked = job_of(tmp_path, ["a"]), []
    for number in range(5):
        with pytest.raises(Died):
            judge_shard(job, 0, deadly({"a": 1}, asked), session=f"driver {number}")
    judge_shard(job, 0, judge_by_length, session="last")
    merge_shards(job, tmp_path / "out.jsonl")

    assert [line["status"] for line in lines_of(tmp_path / "out.jsonl")] == ["ok"]


def test_an_error_of_the_machine_counts_as_a_death(tmp_path: Path):
    job = job_of(tmp_path, ["a", "broken", "c"])
    judge_shard_persistently(job, 0, judge_by_length, "s")
    merge_shards(job, tmp_path / "out.jsonl")

    assert [line["status"] for line in lines_of(tmp_path / "out.jsonl")] == ["ok", "failed", "ok"]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_journal_that_a_kill_left_half_written_is_continued(tmp_path: Path, cut: int):
    job = job_of(tmp_path, list("abcdef"))
    with pytest.raises(Died):
        judge_shard(job, 0, deadly({"f": 1}, []), "s")
    journal = job.journal_file(0)
    journal.write_bytes(journal.read_bytes()[:-cut])
    judge_shard(job, 0, judge_by_length, "s")
    merge_shards(job, tmp_path / "out.jsonl")

    assert [line["id"] for line in lines_of(tmp_path / "out.jsonl")] == [f"id {number}" for number in range(6)]


def test_a_worker_whose_driver_is_gone_stops_between_batches(tmp_path: Path):
    job = job_of(tmp_path, list("abcdef"))
    answers = iter([True, False])

    assert judge_shard(job, 0, judge_by_length, "s", lambda: next(answers)) == 3
    assert not job.finished_file(0).exists()


@pytest.mark.parametrize("change", ["manifest", "judge", "shard size"])
def test_shards_of_another_job_are_refused(tmp_path: Path, change: str):
    job = job_of(tmp_path, ["a", "b"])
    manifest = write_rows(tmp_path, ["a", "x"]) if change == "manifest" else job.manifest
    if change == "judge":
        manifest = Manifest.open(tmp_path / "rows.jsonl", None, "other judge")
    other = ShardJob(manifest, job.folder, 7 if change == "shard size" else job.shard_rows, 3, 3)

    with pytest.raises(UsageError, match="another manifest"):
        other.open_folder()


def test_a_folder_of_shards_with_a_damaged_job_is_refused(tmp_path: Path):
    job = job_of(tmp_path, ["a", "b"])
    (job.folder / "job.json").write_text("[")

    with pytest.raises(UsageError, match=r"damaged job\.json; delete it or choose another --out"):
        job.open_folder()


@pytest.mark.parametrize("damage", ["lost", "doubled", "swapped"])
def test_a_lost_or_doubled_row_is_found_before_the_output_appears(tmp_path: Path, damage: str):
    job = job_of(tmp_path, list("abcd"))
    judge_shard(job, 0, judge_by_length, "s")
    lines = job.finished_file(0).read_bytes().splitlines(keepends=True)
    damaged = {"lost": lines[:-1], "doubled": [*lines, lines[0]], "swapped": [lines[1], lines[0], *lines[2:]]}[damage]
    job.finished_file(0).write_bytes(b"".join(damaged))

    with pytest.raises(DataError):
        merge_shards(job, tmp_path / "out.jsonl")

    assert not (tmp_path / "out.jsonl").exists()
    assert job.finished_file(0).exists()


def test_a_worker_that_is_killed_is_replaced_and_its_poison_quarantined(tmp_path: Path):
    log = tmp_path / "log"
    manifest = write_rows(tmp_path, ["a", "poison", "c", "d", "e", "f"])
    summary = judge_in_shards(partial(load_judge, log=log), manifest, tmp_path / "out.jsonl", crew(1))

    assert [line["status"] for line in lines_of(tmp_path / "out.jsonl")] == ["ok", "failed", "ok", "ok", "ok", "ok"]
    assert summary.failed == 1
    assert sum("poison" in line for line in log.read_text().splitlines()) == 3


def test_every_worker_sees_one_gpu_of_those_that_there_are(tmp_path: Path):
    (tmp_path / "notes").mkdir()
    manifest = write_rows(tmp_path, ["a"] * 48)
    workers = replace(crew(3), processes_gpus=("4", "7"))
    judge_in_shards(partial(load_gpu_teller, tmp_path / "notes"), manifest, tmp_path / "out.jsonl", workers)
    seen = Counter(path.read_text() for path in (tmp_path / "notes").iterdir())
    assert seen == {"4": 2, "7": 1}


@pytest.mark.parametrize(
    ("device", "listed", "count", "gpus"),
    [
        ("auto", None, 2, ("0", "1")),
        ("cuda", "3,5", 2, ("3", "5")),
        ("cuda:1", None, 2, ()),
        ("cpu", None, 2, ()),
        ("auto", None, 0, ()),
    ],
)
def test_gpus_are_dealt_out_unless_the_user_names_one(device, listed, count, gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if listed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus(device) == gpus


def test_a_model_that_cannot_be_loaded_is_one_error(tmp_path: Path):
    with pytest.raises(RewardDanceError, match="there is no model here"):
        judge_in_shards(load_nothing, write_rows(tmp_path, ["a"]), tmp_path / "out.jsonl", crew())


def test_workers_that_die_loading_do_not_go_on_for_ever(tmp_path: Path):
    with pytest.raises(RewardDanceError, match="die while they load"):
        judge_in_shards(die_loading, write_rows(tmp_path, ["a"]), tmp_path / "out.jsonl", crew(1))


def kill_at_random(folder: Path, seed: int, ray: str, rows: int, seconds: float, kills: int) -> list[dict[str, object]]:
    """Runs a job, killing its driver or one of its workers again and again; then lets it end."""
    rng = random.Random(seed)
    manifest = folder / "rows.jsonl"
    write_rows(folder, [f"prompt {'x' * rng.randrange(9)}" for _ in range(rows)])
    out = folder / "out.jsonl"
    words = [str(manifest), str(out), "2", ray, str(seconds)]
    killed = 0
    while not out.exists():
        driver = subprocess.Popen([sys.executable, "-m", "tests.serving.shard_driver", *words], cwd=ROOT)
        while driver.poll() is None and killed < kills:
            before = progress_of(folder)
            # A kill before anything new was written proves nothing.
            while driver.poll() is None and progress_of(folder) == before:
                time.sleep(0.01)
            time.sleep(rng.random() * 4 * seconds)
            try:
                workers = [one for one in psutil.Process(driver.pid).children(recursive=True) if is_worker(one)]
                victim = rng.choice([driver.pid, *(worker.pid for worker in workers)])
                os.kill(victim, signal.SIGKILL)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue  # a process of Ray's ended while the list was made
            killed += 1
            if victim == driver.pid:
                break
        driver.wait(timeout=120)
    assert killed == kills
    return lines_of(out)


def is_worker(process: psutil.Process) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "spawn_main" in line or "ray::" in line


def progress_of(folder: Path) -> int:
    shards = folder / "out.jsonl.shards"
    total = 0
    for path in shards.glob("shard-*") if shards.exists() else ():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def test_kills_of_driver_and_workers_lose_and_double_nothing(tmp_path: Path):
    lines = kill_at_random(tmp_path, seed=0, ray="", rows=60, seconds=0.01, kills=2)

    assert [line["row"] for line in lines] == list(range(60))
    assert [line["id"] for line in lines] == [f"id {number}" for number in range(60)]
    manifest = Manifest.open(tmp_path / "rows.jsonl", None, "judge")
    assert [line["reward"] for line in lines] == [len(manifest.request(row).prompt) / 3 for row in range(60)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 10))
def test_ten_runs_with_kills_lose_and_double_nothing(tmp_path: Path, seed: int):
    lines = kill_at_random(tmp_path, seed, ray="", rows=120, seconds=0.01, kills=5)

    assert [line["row"] for line in lines] == list(range(120))
    assert {line["status"] for line in lines} == {"ok"}


def test_an_error_that_leaves_the_device_unusable_blames_no_row_that_comes_after_it(tmp_path: Path):
    # In the process that had the illegal access everything fails; in the next one only its own row does.
    manifest = write_rows(tmp_path, ["a", "illegal", "c", "d", "e", "f"])
    summary = judge_in_shards(load_judge, manifest, tmp_path / "out.jsonl", crew(1))

    assert [line["status"] for line in lines_of(tmp_path / "out.jsonl")] == ["ok", "failed", "ok", "ok", "ok", "ok"]
    assert summary.failed == 1


def test_a_worker_that_died_since_its_last_message_is_replaced(tmp_path: Path):
    here, there = multiprocessing.Pipe()
    there.close()
    worker = _Worker(multiprocessing.Process(), here, is_loaded=True)
    pool = _Pool(job_of(tmp_path, ["a"]), load_judge, "s", deque([0]), [worker])

    pool.give(worker)

    assert worker.shard == 0
    with pytest.raises(EOFError):
        here.recv()
    here.close()


@pytest.mark.parametrize("when", ["open", "later"])
def test_a_full_disk_ends_the_job_with_one_line_and_no_worker_stays(tmp_path: Path, when: str):
    manifest = write_rows(tmp_path, list("abcdefgh"))
    loader = partial(load_on_a_full_disk, 0 if when == "open" else 700)
    with pytest.raises(RewardDanceError, match=r"(No space left|too large).*shard-0000000\.journal; free some"):
        judge_in_shards(loader, manifest, tmp_path / "out.jsonl", crew(1))
    assert not multiprocessing.active_children()

    judge_in_shards(load_judge, manifest, tmp_path / "out.jsonl", crew(1))
    assert [line["row"] for line in lines_of(tmp_path / "out.jsonl")] == list(range(8))


@pytest.mark.parametrize(
    ("end", "words"), [("signal", "the last one by signal 9"), ("error", "the last one with exit code 1")]
)
def test_workers_that_die_before_their_first_row_do_not_go_on_for_ever(tmp_path: Path, end: str, words: str):
    loader = partial(load_dying_before_the_first_row, end)
    with pytest.raises(RewardDanceError, match=f"3 workers died before their first row, {words}"):
        judge_in_shards(loader, write_rows(tmp_path, list("abcdef")), tmp_path / "out.jsonl", crew(1))
    assert not multiprocessing.active_children()


def test_a_damaged_journal_is_named(tmp_path: Path):
    job = job_of(tmp_path, ["a"])
    job.journal_file(0).write_bytes(b"[\n")

    with pytest.raises(DataError, match=r"shard-0000000\.journal is damaged; delete it"):
        judge_shard(job, 0, judge_by_length, "s")
