import pytest

from rewarddance.config.guard import GuardConfig, SpreadConfig
from rewarddance.lab import guard_thresholds
from rewarddance.lab.guard_thresholds import best_of, fix_thresholds, guard_candidates, merit, spread_candidates
from tests.lab.test_guard_study import recorded

ASLEEP = GuardConfig(error_rate=0.001, lone_error_rate=0.001, minimum_fall=50.0, persistent_level=None)


@pytest.fixture(scope="module")
def runs():
    return [
        recorded([0.5, 0.6, 0.7, 0.6, 0.5, 0.4], [0, 1, 2, 1, 0, -1], [1, 1, 1, 1, 1, 1]),
        recorded([0.5, 0.55, 0.6, 0.62, 0.63, 0.63], [0, 0.5, 1, 1.2, 1.3, 1.3], [1, 0.5, 0.3, 0.1, 0.1, 0.1]),
    ]


def test_merit_is_the_share_caught_less_the_share_of_false_alarms(runs):
    assert merit(runs, GuardConfig()).separation == 1
    assert merit(runs, ASLEEP).separation == 0
    assert merit(runs, SpreadConfig()).separation == -1


def test_a_detector_that_sleeps_keeps_what_gold_ends_at(runs):
    assert merit(runs, ASLEEP).kept == pytest.approx(0.4 / 0.7)


@pytest.mark.parametrize("order", [1, -1])
def test_the_best_detector_is_taken_wherever_it_stands(runs, order: int):
    assert best_of(runs, [ASLEEP, GuardConfig()][::order]) == GuardConfig()


def test_of_equals_the_first_is_taken(runs):
    twins = [GuardConfig(diversity_share=share) for share in (0.6, 0.7)]
    assert best_of(runs, twins) == twins[0]


def test_both_detectors_are_searched_and_the_signal_as_the_paper_has_it_is_among_them():
    assert len({one.model_dump_json() for one in guard_candidates(8)}) == len(list(guard_candidates(8))) > 500
    assert any((one.of, one.among) == ("score", "all") for one in spread_candidates())


def test_both_detectors_are_fixed_for_the_looks_of_the_runs(runs, monkeypatch):
    some = [list(guard_thresholds.guard_candidates(5))[::100], list(spread_candidates())[::5]]
    monkeypatch.setattr(guard_thresholds, "guard_candidates", lambda looks: some[0] if looks == 5 else [])
    monkeypatch.setattr(guard_thresholds, "spread_candidates", lambda: some[1])
    found = fix_thresholds(runs, looks=5)
    assert found.guard.looks == 5
    assert (found.guard, found.spread) == (best_of(runs, some[0]), best_of(runs, some[1]))


def test_the_strictest_settings_of_the_guard_come_first():
    first, *_, last = guard_candidates(8)
    assert first.error_rate < last.error_rate
    assert first.smoothing > last.smoothing
    assert first.minimum_fall > last.minimum_fall
    assert first.agreeing_share > last.agreeing_share
    assert first.persistent_level is None
