import json

import torch

from rewarddance.training.tracking import MetricsLog, write_environment


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_resumed_log_holds_every_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, 0) as log:
        for step in (1, 2, 3):
            log.write({"optimizer_step": step, "loss": 0.5})
    with MetricsLog(path, 2) as log:
        log.write({"optimizer_step": 3, "loss": 0.4})
    assert [(row["optimizer_step"], row["loss"]) for row in rows(path)] == [(1, 0.5), (2, 0.5), (3, 0.4)]


def test_a_line_that_a_kill_cut_short_is_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"optimizer_step": 1}\n{"optimizer_step": 2, "lo', encoding="utf-8")
    MetricsLog(path, 2).__exit__(None, None, None)
    assert rows(path) == [{"optimizer_step": 1}]


def test_a_line_can_be_read_before_the_run_ends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, 0) as log:
        log.write({"optimizer_step": 1})
        assert rows(path) == [{"optimizer_step": 1}]


def test_a_process_without_a_file_writes_nothing(tmp_path):
    with MetricsLog(None, 0) as log:
        log.write({"optimizer_step": 1})
        log.sync()
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_versions_and_seed(tmp_path):
    write_environment(tmp_path / "environment.json", seed=7, processes=1, device=torch.device("cpu"))
    content = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
    assert content["versions"]["torch"].startswith("2.")
    assert content["seed"] == 7
