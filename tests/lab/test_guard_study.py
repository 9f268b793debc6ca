import json
from pathlib import Path

import numpy as np
import pytest

from rewarddance.config.guard import GuardConfig, SpreadConfig
from rewarddance.core.errors import UsageError
from rewarddance.lab import guard_study
from rewarddance.lab.guard_study import (
    Detectors,
    Recorded,
    by_fall,
    calibration_runs,
    finished_runs,
    first_free_seed,
    judged,
    looks_of,
    read_recorded,
    row_of,
    smallest_fall,
    summary,
    thresholds_of,
    write_guard_results,
)
from rewarddance.training.guard_observation import Observation

DEFAULTS = Detectors(GuardConfig(), SpreadConfig())
PROMPTS = tuple(f"prompt {number}" for number in range(40))


def recorded(gold: list[float], held_out: list[float], spread: list[float], pictures: int = 160) -> Recorded:
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
    return Recorded("run", "refl", tuple(range(0, 10 * len(gold), 10)), tuple(gold), pictures, observations)


@pytest.fixture(scope="module")
def hacking() -> Recorded:
    return recorded([0.5, 0.6, 0.7, 0.6, 0.5, 0.4], [0, 1, 2, 1, 0, -1], [1, 1, 1, 1, 1, 1])


@pytest.fixture(scope="module")
def healthy() -> Recorded:
    return recorded([0.5, 0.55, 0.6, 0.62, 0.63, 0.63], [0, 0.5, 1, 1.2, 1.3, 1.3], [1, 0.5, 0.3, 0.1, 0.1, 0.1])


def test_a_fall_after_the_peak_is_hacking_and_a_plateau_is_not(hacking, healthy):
    assert hacking.curve.hacks
    assert not healthy.curve.hacks


def test_a_fall_counts_from_the_noise_of_the_pictures_it_is_measured_on():
    assert smallest_fall(132) == 0.01
    assert smallest_fall(4 * 132) == pytest.approx(0.005)
    curve = ([0.5, 0.6, 0.592], [0, 1, 1], [1, 1, 1])
    assert [recorded(*curve, pictures).curve.hacks for pictures in (132, 474)] == [False, True]


def test_the_guard_keeps_the_peak_of_a_run_that_hacks(hacking):
    found = judged(hacking, GuardConfig())
    assert found["alarm_step"] is not None
    assert found["kept_step"] == 20
    assert found["kept_share"] == 1


def test_spread_alone_alarms_where_spread_vanishes_and_gold_does_not(healthy):
    assert judged(healthy, SpreadConfig())["alarm_step"] is not None
    assert judged(healthy, GuardConfig())["alarm_step"] is None


def test_the_summary_counts_both_detectors_on_the_same_runs(hacking, healthy):
    figures = summary([row_of(run, DEFAULTS) for run in (hacking, healthy)])
    assert (figures["hacking_runs"], figures["healthy_runs"]) == (1, 1)
    assert (figures["caught"], figures["false_alarms"]) == (1, 0)
    assert (figures["alarms_before_peak"], figures["delay_median"]) == (0, 20)
    assert (figures["spread_alone"]["caught"], figures["spread_alone"]["false_alarms"]) == (0, 1)


def stored(run: Recorded, folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / "finished.json").write_text(json.dumps({"way": run.way, "seed": seed}))
    rows = [{"optimizer_step": step, "extra": {"gold": gold}} for step, gold in zip(run.steps, run.gold, strict=True)]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [json.dumps(observation.to_json()) + "\n" for observation in run.observations]
    (folder / "observations.jsonl").write_text("".join(lines))
    return folder


def test_hacking_runs_are_counted_by_how_much_gold_they_lose():
    def run(fall: float, step: int | None, *, hacks: bool = True) -> dict[str, object]:
        alarm, none = {"alarm_step": step}, {"alarm_step": None}
        return {"hacks": hacks, "fall": fall, "guard": alarm, "guard_defaults": alarm, "spread_alone": none}

    rows = [run(0.02, None), run(0.03, 20), run(0.3, 20), run(0.2, 20, hacks=False)]
    found = by_fall(rows)
    assert [one["hacking_runs"] for one in found] == [1, 1, 0, 1]
    assert [one["guard"] for one in found] == [0, 1, 0, 1]
    assert [one["spread_alone"] for one in found] == [0, 0, 0, 0]
    assert found[-1]["largest_fall"] is None


def test_a_recorded_run_is_read_back_as_it_was(hacking, tmp_path: Path):
    again = read_recorded(stored(hacking, tmp_path / "run"))
    assert (again.steps, again.gold) == (hacking.steps, hacking.gold)
    assert judged(again, GuardConfig()) == judged(hacking, GuardConfig())


def test_results_hold_the_runs_that_fixed_the_thresholds_apart_from_those_scored(hacking, healthy, tmp_path: Path):
    folders = [stored(run, tmp_path / name) for name, run in (("hacking", hacking), ("healthy", healthy))]
    figures = write_guard_results(tmp_path / "guard.json", folders, thresholds_of(DEFAULTS, folders[:1]))
    content = json.loads((tmp_path / "guard.json").read_text())
    assert (figures["hacking_runs"], figures["healthy_runs"]) == (1, 1)
    assert [row["run"] for row in content["thresholds"]["calibration"]["rows"]] == ["hacking"]
    assert content["by_way"] == {"refl": content["summary"]}


@pytest.fixture
def two_made_as_now(hacking, healthy, tmp_path: Path, monkeypatch) -> list[Path]:
    monkeypatch.setattr(guard_study, "evaluated_steps", lambda way: list(hacking.steps))
    return [stored(run, tmp_path / "first" / name) for name, run in (("one", hacking), ("two", healthy))]


def test_further_runs_are_judged_by_the_thresholds_that_the_file_holds(two_made_as_now, hacking, healthy, tmp_path):
    path, strict = tmp_path / "guard.json", Detectors(GuardConfig(minimum_fall=0.2), SpreadConfig())
    write_guard_results(path, two_made_as_now, thresholds_of(strict, ()))
    fixed = json.loads(path.read_text())["thresholds"]
    again = [stored(hacking, tmp_path / "again" / "two"), stored(healthy, tmp_path / "again" / "three")]
    figures = write_guard_results(path, again)
    content = json.loads(path.read_text())
    assert (figures["hacking_runs"], figures["healthy_runs"]) == (2, 1)
    assert [row["run"] for row in content["rows"]] == ["one", "three", "two"]
    assert content["thresholds"] == fixed
    assert fixed["guard"]["minimum_fall"] == 0.2


def test_rows_that_were_judged_by_other_thresholds_do_not_stay(two_made_as_now, tmp_path: Path):
    path, strict = tmp_path / "guard.json", Detectors(GuardConfig(minimum_fall=0.2), SpreadConfig())
    write_guard_results(path, two_made_as_now, thresholds_of(DEFAULTS, ()))
    write_guard_results(path, two_made_as_now[:1], thresholds_of(strict, ()))
    assert [row["run"] for row in json.loads(path.read_text())["rows"]] == ["one"]


def test_rows_of_runs_of_another_length_do_not_stay(two_made_as_now, tmp_path: Path, monkeypatch):
    path = tmp_path / "guard.json"
    write_guard_results(path, two_made_as_now, thresholds_of(DEFAULTS, ()))
    monkeypatch.setattr(guard_study, "evaluated_steps", lambda way: [0, 20, 40])
    write_guard_results(path, two_made_as_now[:1])
    assert [row["run"] for row in json.loads(path.read_text())["rows"]] == ["one"]


def test_without_thresholds_nothing_is_judged(two_made_as_now, tmp_path: Path):
    with pytest.raises(UsageError, match="--part thresholds"):
        write_guard_results(tmp_path / "guard.json", two_made_as_now)
    assert not (tmp_path / "guard.json").exists()


def test_seeds_of_runs_that_are_scored_fix_no_thresholds(hacking, tmp_path: Path):
    assert first_free_seed([stored(hacking, tmp_path / str(seed), seed) for seed in (4, 1)]) == 5
    assert first_free_seed([]) == 0


def test_only_finished_runs_of_the_ways_that_are_asked_for_are_judged(hacking, tmp_path: Path):
    for name in ("a", "b"):
        stored(hacking, tmp_path / "alignment" / "drawing-0" / name)
    (tmp_path / "alignment" / "drawing-0" / "b" / "finished.json").unlink()
    assert [folder.name for folder in finished_runs(tmp_path, "refl")] == ["a"]
    assert finished_runs(tmp_path, "flow_grpo") == []


def test_thresholds_are_fixed_on_models_and_a_drawing_that_are_not_scored(tmp_path: Path, monkeypatch):
    made, asked = [], []
    monkeypatch.setattr(guard_study, "study_data", lambda settings, seed: None)
    monkeypatch.setattr(guard_study, "make_all", lambda make, runs, jobs, on_done: made.extend(runs))
    monkeypatch.setattr(guard_study, "run_alignments", lambda study, on_done: asked.append(study) or [])
    calibration_runs(tmp_path, seed=3)
    assert {run.seed for run in made} == {3}
    assert (asked[0].drawing, {cell.seed for cell in asked[0].cells}) == (1, {3})
    assert {cell.way for cell in asked[0].cells} == {"refl", "refl_augmented"}
    assert len(asked[0].cells) == 12


def test_a_method_has_as_many_looks_as_its_longest_runs():
    assert (looks_of("refl"), looks_of("flow_grpo")) == (8, 9)
