import json
from pathlib import Path

import numpy as np
import pytest

from rewarddance.config.guard import GuardConfig, SpreadConfig
from rewarddance.lab.guard_study import Recorded, judged, read_recorded, row_of, summary
from rewarddance.training.guard_observation import Observation

PROMPTS = tuple(f"prompt {number}" for number in range(40))


def recorded(gold: list[float], held_out: list[float], spread: list[float]) -> Recorded:
    rng = np.random.default_rng(0)
    base, noise = rng.normal(size=40), rng.normal(size=(40, 3))
    observations = tuple(
        Observation(
            optimizer_step=10 * place,
            prompts=PROMPTS,
            proxy=width * noise,
            held_out={"judge": base + level + 0.05 * rng.normal(size=40)},
            diversity=np.full(40, 0.4),
            statistics={"contrast": np.full(40, 0.1)},
        )
        for place, (level, width) in enumerate(zip(held_out, spread, strict=True))
    )
    return Recorded("run", tuple(range(0, 10 * len(gold), 10)), tuple(gold), observations)


@pytest.fixture(scope="module")
def hacking() -> Recorded:
    return recorded([0.5, 0.6, 0.7, 0.6, 0.5, 0.4], [0, 1, 2, 1, 0, -1], [1, 1, 1, 1, 1, 1])


@pytest.fixture(scope="module")
def healthy() -> Recorded:
    return recorded([0.5, 0.55, 0.6, 0.62, 0.63, 0.63], [0, 0.5, 1, 1.2, 1.3, 1.3], [1, 0.5, 0.3, 0.1, 0.1, 0.1])


def test_a_fall_after_the_peak_is_hacking_and_a_plateau_is_not(hacking, healthy):
    assert hacking.curve.hacks
    assert not healthy.curve.hacks


def test_the_guard_keeps_the_peak_of_a_run_that_hacks(hacking):
    found = judged(hacking, GuardConfig())
    assert found["alarm_step"] is not None
    assert found["kept_step"] == 20
    assert found["kept_share"] == 1


def test_spread_alone_alarms_where_spread_vanishes_and_gold_does_not(healthy):
    assert judged(healthy, SpreadConfig())["alarm_step"] is not None
    assert judged(healthy, GuardConfig())["alarm_step"] is None


def test_the_summary_counts_both_detectors_on_the_same_runs(hacking, healthy):
    figures = summary([row_of(run, GuardConfig(), SpreadConfig()) for run in (hacking, healthy)])
    assert (figures["hacking_runs"], figures["healthy_runs"]) == (1, 1)
    assert (figures["caught"], figures["false_alarms"]) == (1, 0)
    assert (figures["spread_alone"]["caught"], figures["spread_alone"]["false_alarms"]) == (0, 1)


def test_a_recorded_run_is_read_back_as_it_was(hacking, tmp_path: Path):
    rows = [
        {"optimizer_step": step, "extra": {"gold": gold}}
        for step, gold in zip(hacking.steps, hacking.gold, strict=True)
    ]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [json.dumps(observation.to_json()) + "\n" for observation in hacking.observations]
    (tmp_path / "observations.jsonl").write_text("".join(lines))
    again = read_recorded(tmp_path)
    assert (again.steps, again.gold) == (hacking.steps, hacking.gold)
    assert judged(again, GuardConfig()) == judged(hacking, GuardConfig())
