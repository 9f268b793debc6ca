import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import wandb
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rewarddance.config.training import DataConfig, ModelConfig, TrainConfig
from rewarddance.core.errors import UsageError
from rewarddance.training import mirrors
from rewarddance.training.alignment import align
from rewarddance.training.mirrors import Mirrors, open_mirrors, require_mirrors
from rewarddance.training.tracking import MetricsLog
from tests.training.stand_in_generator import StandInGenerator, align_config, reward_of

CONFIG = TrainConfig(model=ModelConfig(base="base"), data=DataConfig(train=Path("data")))
ROW = {
    "optimizer_step": 3,
    "loss": 0.5,
    "accuracy": None,
    "is_best": True,
    "note": "words",
    "held_out": {"judge": 1.5, "broken": float("nan")},
}


def shown_by_tensorboard(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_shows_the_numbers_of_a_line_and_the_pictures_of_its_step(tmp_path: Path):
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (4, 2), "red").save(tmp_path / "samples" / "0-1.png")
    with open_mirrors(["tensorboard"], tmp_path, 0, CONFIG) as opened:
        opened.copy("evaluation", ROW, lambda step: tmp_path / "samples")
    events = shown_by_tensorboard(tmp_path)
    assert sorted(events.Tags()["scalars"]) == ["evaluation/held_out/judge", "evaluation/loss"]
    assert [(one.step, one.value) for one in events.Scalars("evaluation/held_out/judge")] == [(3, 1.5)]
    assert [(one.step, one.width, one.height) for one in events.Images("samples/0-1")] == [(3, 4, 2)]


def test_an_alignment_run_shows_its_steps_its_evaluations_and_its_pictures(tmp_path: Path):
    result = align(align_config(tmp_path, "refl", mirrors=["tensorboard"]), StandInGenerator(), reward_of())
    events = shown_by_tensorboard(result.folder)
    assert [one.step for one in events.Scalars("train/reward")] == [1, 2, 3, 4]
    assert [one.step for one in events.Scalars("evaluation/proxy")] == [0, 2, 4]
    assert [one.step for one in events.Images("samples/0-1")] == [0, 2, 4]


def test_steps_that_come_again_after_a_kill_are_shown_once(tmp_path: Path):
    for resumed_step, steps, loss in ((0, (1, 2, 3), 0.5), (2, (3, 4), 0.25)):
        with open_mirrors(["tensorboard"], tmp_path, resumed_step, CONFIG) as opened:
            for step in steps:
                opened.copy("train", {"optimizer_step": step, "loss": loss})
    scalars = shown_by_tensorboard(tmp_path).Scalars("train/loss")
    assert [(one.step, one.value) for one in scalars] == [(1, 0.5), (2, 0.5), (3, 0.25), (4, 0.25)]


def test_wandb_gets_figures_without_a_server_and_a_resumed_run_keeps_its_id(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with open_mirrors(["wandb"], tmp_path, 0, CONFIG) as opened:
        opened.copy("train", ROW)
    kept = (tmp_path / "wandb_run_id").read_text()
    with open_mirrors(["wandb"], tmp_path, 3, CONFIG) as opened:
        opened.copy("train", ROW)
    files = list(tmp_path.glob(f"wandb/offline-run-*/run-{kept}.wandb"))
    assert files
    assert all(b"train/held_out/judge" in file.read_bytes() for file in files)


def test_wandb_that_cannot_be_started_is_one_line_before_the_run(tmp_path: Path, monkeypatch):
    def refuse(**settings: object) -> None:
        raise wandb.Error("no API key")

    monkeypatch.setattr(wandb, "init", refuse)
    with (
        pytest.raises(UsageError, match=r"no API key.*WANDB_MODE=offline"),
        open_mirrors(["wandb"], tmp_path, 0, CONFIG),
    ):
        pass


def test_a_tracker_that_is_not_installed_stops_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(mirrors, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"tensorboard, which is not installed: pip install 'rewarddance\[track\]'"):
        require_mirrors(["tensorboard"])
    require_mirrors([])


class Failing:
    def __init__(self) -> None:
        self.asked = 0

    def figures(self, optimizer_step: int, figures: Mapping[str, float]) -> None:
        self.asked += 1
        raise OSError("No space left on device")

    def pictures(self, optimizer_step: int, pictures: Mapping[str, Path]) -> None:
        raise AssertionError("it was left behind")


def test_a_tracker_that_fails_is_left_behind_and_the_log_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    failing = Failing()
    both = Mirrors({"tensorboard": failing})
    with (
        caplog.at_level(logging.WARNING),
        MetricsLog(tmp_path / "metrics.jsonl", 0, lambda row: both.copy("train", row)) as log,
    ):
        log.write({"optimizer_step": 1, "loss": 0.5})
        log.write({"optimizer_step": 2, "loss": 0.5})
    assert failing.asked == 1
    assert caplog.text.count("tensorboard gets no more figures of this run: No space left on device") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
