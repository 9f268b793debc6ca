import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from rewarddance.config.guard import GuardConfig, SpreadConfig
from rewarddance.core.errors import CheckpointError, NonFiniteError, RewardError, UsageError
from rewarddance.metrics.overoptimization import wilson_interval
from rewarddance.training.guard import Guard, replay
from rewarddance.training.guard_evidence import last_as_good
from rewarddance.training.guard_observation import Observation, observe
from rewarddance.training.guard_signals import statistics_drift
from rewarddance.training.guard_verdict import Verdict
from rewarddance.training.spread_detector import SpreadDetector
from tests.training.simulated_runs import hacked, risen, simulate

PROMPTS = tuple(f"prompt {number}" for number in range(12))


def reward_of_red(pixels: torch.Tensor, prompts) -> list[float]:
    return pixels[:, 0].mean(dim=(1, 2)).tolist()


def pictures(red: float, seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    """Two pictures a prompt from fixed noise, some prompts redder than others."""
    rng = torch.Generator().manual_seed(seed)
    pixels = 0.3 * torch.rand((24, 3, 8, 8), generator=rng)
    pixels[:, 0] += red * (1 + torch.arange(24)[:, None, None] / 100)
    return pixels.clamp(0, 1), [prompt for prompt in PROMPTS for _ in range(2)]


def checked(guard: Guard | SpreadDetector, reds: list[float]) -> list[Verdict]:
    verdicts = []
    for index, red in enumerate(reds):
        pixels, prompts = pictures(red)
        verdicts.append(guard.check(10 * index, pixels, prompts, [0.1 * index + 0.01 * n for n in range(24)]))
    return verdicts


def alarms(config: GuardConfig | SpreadConfig, curve: np.ndarray, runs: int, **settings: float) -> list[bool]:
    verdicts = [replay(config, simulate(curve, seed, **settings).observations) for seed in range(runs)]
    return [any(verdict.state == "hacking" for verdict in run) for run in verdicts]


def test_a_rise_then_a_fall_is_hacking_and_names_judge_numbers_and_step():
    last = checked(Guard(GuardConfig(smoothing=1), {"redness": reward_of_red}), [0.1, 0.3, 0.5, 0.4])[-1]
    assert last.state == "hacking"
    # pictures fall by 0.1 * (1 + n / 100), in the mean by 0.11; they had risen by 0.45
    assert last.reason.startswith("held-out judge redness fell by 0.11 [0.11, 0.12] since step 20, 25% of the rise")
    assert "the proxy rose by 0.10 since step 20" in last.reason


def test_it_rolls_back_to_the_best_by_the_held_out_judges():
    last = checked(Guard(GuardConfig(), {"redness": reward_of_red}), [0.1, 0.3, 0.5, 0.4, 0.3])[-1]
    assert (last.action, last.best_step) == ("roll_back", 20)


def test_a_rise_is_healthy_at_every_evaluation():
    verdicts = checked(Guard(GuardConfig(statistics_drift=99.0), {"redness": reward_of_red}), [0.1, 0.2, 0.3, 0.4])
    assert [verdict.state for verdict in verdicts] == ["healthy"] * 4


def test_a_decline_from_the_start_is_hacking():
    last = checked(Guard(GuardConfig(smoothing=1), {"redness": reward_of_red}), [0.5, 0.4])[-1]
    assert (last.state, last.best_step) == ("hacking", 0)
    assert "without having risen" in last.reason


def test_an_action_is_not_repeated_before_the_cooldown_is_over():
    guard = Guard(GuardConfig(smoothing=1, cooldown=2, action="raise_kl"), {"redness": reward_of_red})
    verdicts = checked(guard, [0.1, 0.5, 0.4, 0.35, 0.3])
    assert [verdict.action for verdict in verdicts] == ["none", "none", "raise_kl", "none", "raise_kl"]


@pytest.mark.parametrize("action", ["raise_kl", "refresh_references"])
def test_after_an_action_the_best_is_the_best_since_then(action):
    # It still falls after the first action; then it is back at the base's level, below the best of the run, and stays.
    cured = [0.1, 0.5, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1]
    config = GuardConfig(smoothing=1, cooldown=1, action=action, statistics_drift=99.0)
    verdicts = checked(Guard(config, {"redness": reward_of_red}), cured)
    assert [verdict.action for verdict in verdicts] == ["none", "none", action, "none", action, *["none"] * 4]
    assert "hacking" not in [verdict.state for verdict in verdicts[5:]]


def failed_cure(fall: float = 0.8) -> tuple[Observation, ...]:
    """Rises to its best at step 40, falls by a share of it within six evaluations, and stays there whatever is done."""
    fallen = np.linspace(1, 1 - fall, 7)[1:]
    curve = np.concatenate([np.linspace(0, 1, 5), fallen, np.full(5, fallen[-1])])
    return simulate(curve, 0, wander=0.15).observations


@pytest.mark.parametrize("action", ["raise_kl", "refresh_references"])
def test_a_cure_that_did_not_help_is_no_health_and_the_run_ends_at_its_best(action):
    rows = failed_cure()
    verdicts, stopped = (replay(GuardConfig(action=each), rows) for each in (action, "stop"))
    first = [verdict.action for verdict in verdicts].index(action)
    assert {verdict.state for verdict in verdicts[first:]} == {"warning", "hacking"}
    assert all(verdict.ends_at_best for verdict in verdicts[first:])
    assert "below the best of the run; ending so, it goes back to step 40" in verdicts[-1].reason
    # The best of the whole run, as if nothing had been done; it is kept to the end.
    assert [verdict.best_step for verdict in verdicts] == [verdict.best_step for verdict in stopped]
    assert verdicts[-1].best_step == 40
    for earlier, later in pairwise(verdicts):
        assert later.best_step in {*earlier.keep_steps, later.optimizer_step}


def test_a_cure_that_helped_is_healthy_and_the_run_ends_where_it_is():
    # Falls from 1 to 0.6, and rises to 1.2 after the action.
    curve = np.concatenate([np.linspace(0, 1, 6), [0.8, 0.6], np.linspace(0.6, 1.2, 7)[1:]])
    verdicts = replay(GuardConfig(action="raise_kl"), simulate(curve, 1, wander=0.05).observations)
    assert "raise_kl" in [verdict.action for verdict in verdicts]
    last = verdicts[-1]
    assert (last.state, last.ends_at_best, last.best_step) == ("healthy", False, last.optimizer_step)
    assert last.reason == "the held-out judges are at their best since the last action"


def test_a_run_without_an_action_ends_where_it_is():
    settings = {"wander": 0.15}
    for seed in range(12):
        for verdict in replay(GuardConfig(action="raise_kl"), simulate(np.zeros(10), seed, **settings).observations):
            assert not verdict.ends_at_best or verdict.state == "hacking"
    for action in ("none", "stop", "roll_back"):
        assert not any(verdict.ends_at_best for verdict in replay(GuardConfig(action=action), failed_cure()))


def test_a_policy_whose_pictures_became_alike_is_not_what_a_cured_run_goes_back_to():
    rows = failed_cure(fall=0.0)  # rises to step 40 and stays
    # The judges like best what it draws at steps 60 and 70, which is always the same.
    alike = {6: 3.0, 7: 3.0}
    rows = tuple(
        replace(
            row,
            diversity=row.diversity * (0.1 if index in alike else 1.0),
            held_out={name: values + alike.get(index, 0.0) for name, values in row.held_out.items()},
        )
        for index, row in enumerate(rows)
    )
    verdicts = replay(GuardConfig(action="raise_kl", statistics_drift=99.0), rows)
    assert [verdict.action for verdict in verdicts].index("raise_kl") == 6
    assert not {60, 70} & {verdict.best_step for verdict in verdicts}
    assert not verdicts[-1].ends_at_best


def test_who_hacks_after_three_raises_of_the_pull_is_rolled_back():
    config = GuardConfig(smoothing=1, cooldown=1, action="raise_kl", statistics_drift=99.0)
    guard = Guard(config, {"redness": reward_of_red})
    verdicts = checked(guard, [0.1, 0.6, *np.linspace(0.55, 0.1, 10).tolist()])
    acted = [verdict for verdict in verdicts if verdict.action != "none"]
    assert [verdict.action for verdict in acted[:4]] == ["raise_kl", "raise_kl", "raise_kl", "roll_back"]
    assert acted[3].best_step == 10
    assert acted[3].reason.endswith("; 3 raises of the pull have not ended it")


def test_an_action_spends_no_error_anew():
    rows = simulate(hacked(12), 0).observations
    limits = {}
    for action in ("stop", "raise_kl"):
        limits[action] = [verdict.figures.get("p_limit") for verdict in replay(GuardConfig(action=action), rows)]
        assert len(set(limits[action])) > 5
    lone, usual = 0.01 / 0.05, 1.0
    ratios = [raised / stopped for raised, stopped in zip(limits["raise_kl"][1:], limits["stop"][1:], strict=True)]
    assert all(any(ratio == pytest.approx(each) for each in (lone, usual, 1 / lone)) for ratio in ratios)


def test_what_ends_a_run_begins_no_new_period():
    rows = simulate(hacked(14), 3).observations
    plain, *others = (replay(GuardConfig(action=action), rows) for action in ("none", "stop", "roll_back"))
    for verdicts in others:
        assert [replace(verdict, action="none") for verdict in verdicts] == list(plain)


def test_a_guard_that_acted_and_is_restored_goes_on_in_its_period():
    rows, config = simulate(hacked(14), 3).observations, GuardConfig(action="raise_kl")
    judges = {"judge0": reward_of_red, "judge1": reward_of_red}
    first, verdicts = Guard(config, judges), replay(config, rows)
    acted = [verdict.action for verdict in verdicts].index("raise_kl")
    for row in rows[: acted + 1]:
        first.add(row)
    resumed = Guard(config, judges)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert tuple(resumed.add(row) for row in rows[acted + 1 :]) == verdicts[acted + 1 :]


def test_identical_pictures_are_a_collapse_whatever_the_judges_say():
    guard = Guard(GuardConfig(), {"redness": reward_of_red})
    checked(guard, [0.1])
    pixels, prompts = pictures(0.6)
    verdict = guard.check(10, pixels[::2].repeat_interleave(2, dim=0), prompts, [0.0] * 24)
    assert (verdict.state, verdict.figures["diversity_ratio"]) == ("hacking", 0.0)
    assert verdict.best_step == 0  # the judges like the collapsed policy best


def test_a_judge_that_falls_alone_is_a_warning_not_hacking():
    run = simulate(risen(12), 0)
    falling = [
        replace(row, held_out={**row.held_out, "third": row.held_out["judge0"] - 4.0 * max(0, index - 6)})
        for index, row in enumerate(run.observations)
    ]
    config = GuardConfig(agreeing_share=1.0)
    last = replay(config, falling)[-1]
    assert last.state == "warning"


def test_checkpoints_that_may_become_the_best_are_kept():
    run = simulate(hacked(12), 0)
    verdicts = replay(GuardConfig(smoothing=3), run.observations)
    for earlier, later in pairwise(verdicts):
        assert later.best_step in {*earlier.keep_steps, later.optimizer_step}


# Prompts differ, wander, and are seen through two noisy judges (tests/training/simulated_runs.py).


def test_healthy_runs_are_hardly_ever_called_hacking():
    n_false = sum(alarms(GuardConfig(), risen(12), 24, wander=0.15))
    assert n_false / 24 <= 0.05


def test_runs_that_never_change_are_seldom_called_hacking():
    # The hardest healthy run: every evaluation is equally good, so any of them may look like a fall from the best.
    low, _ = wilson_interval(sum(alarms(GuardConfig(), np.zeros(10), 24, wander=0.15)), 24)
    assert low <= 0.05


def test_runs_that_lose_half_of_their_rise_are_caught():
    assert np.mean(alarms(GuardConfig(), hacked(14, fall=0.5), 15, wander=0.15)) >= 0.95


def test_more_prompts_catch_smaller_falls():
    few = np.mean(alarms(GuardConfig(), hacked(16, fall=0.15), 10, wander=0.15, prompts=16))
    many = np.mean(alarms(GuardConfig(), hacked(16, fall=0.15), 10, wander=0.15, prompts=192))
    assert many > few + 0.2


def test_the_checkpoint_rolled_back_to_keeps_the_peak():
    kept = []
    for seed in range(10):
        run = simulate(hacked(16, fall=0.6), seed, wander=0.15)
        best = replay(GuardConfig(), run.observations)[-1].best_step
        kept.append(run.truth[best // 10] / run.truth.max())
    assert np.median(kept) >= 0.95


def test_of_evaluations_as_good_as_the_best_the_last_is_rolled_back_to():
    rng = np.random.default_rng(0)
    means = np.array([0.0, 1.0, 0.98, 0.97, 0.5, 0.99])
    values = means[:, None] + rng.normal(0, 0.5, (6, 40)) * np.array([0, 0, 1, 1, 0, 0])[:, None]

    # What comes after one that is worse is not looked at: a judge that is fooled rises again.
    assert [last_as_good(values, 1, errors) for errors in (0.0, 3.0)] == [1, 3]
    assert last_as_good(values, 5, 3.0) == 5
    assert last_as_good(np.zeros((4, 10)), 1, 0.0) == 3


def test_falls_that_cannot_be_told_from_none_leave_more_of_the_run():
    later = {}
    for errors in (0.0, 1.5):
        runs = [simulate(hacked(16, fall=0.3), seed, wander=0.15) for seed in range(10)]
        later[errors] = [replay(GuardConfig(roll_back_errors=errors), run.observations)[-1].best_step for run in runs]
    assert all(more >= less for more, less in zip(later[1.5], later[0.0], strict=True))
    assert sum(later[1.5]) > sum(later[0.0])


@pytest.mark.parametrize("errors", [0.0, 1.5, 4.0])
@pytest.mark.parametrize("smoothing", [1, 3])
def test_whatever_counts_as_good_is_still_there(errors: float, smoothing: int):
    for seed in range(5):
        run = simulate(hacked(14, fall=0.5), seed, wander=0.3)
        verdicts = replay(GuardConfig(roll_back_errors=errors, smoothing=smoothing), run.observations)
        kept = set(verdicts[0].keep_steps)
        for verdict in verdicts[1:]:
            assert verdict.best_step in kept | {verdict.optimizer_step}
            kept = (kept | {verdict.optimizer_step}) & set(verdict.keep_steps)


def test_support_by_another_signal_lets_a_weaker_fall_convince():
    run = simulate(hacked(14, fall=0.5), 2, wander=0.15)
    flat_proxy = [replace(row, proxy=run.observations[0].proxy) for row in run.observations]
    config = GuardConfig(persistent_level=None, patience=99, error_rate=0.2, lone_error_rate=1e-4)
    supported, alone = (replay(config, rows)[-1].figures["p_limit"] for rows in (run.observations, flat_proxy))
    assert supported == pytest.approx(2000 * alone)


def with_proxy(rows: tuple[Observation, ...], means: list[float]) -> list[Observation]:
    """The same run by another reward, whose mean is given for each evaluation."""
    return [replace(row, proxy=mean + 0.2 * rows[0].proxy) for row, mean in zip(rows, means, strict=True)]


def test_a_reward_that_is_saturated_from_the_start_supports_no_fall():
    rows = simulate(hacked(14, fall=0.5), 2, wander=0.15).observations
    config = GuardConfig(persistent_level=None, patience=99)
    aesthetic, log_odds = (replay(config, with_proxy(rows, [level] * 14)) for level in (5.5, 0.0))
    assert aesthetic[-1].figures["saturation"] == 1.0
    assert [replace(verdict, figures={}) for verdict in aesthetic] == [
        replace(verdict, figures={}) for verdict in log_odds
    ]
    assert not any(verdict.signals for verdict in aesthetic)


def test_a_reward_that_becomes_saturated_supports_a_fall_from_the_first_saturated_evaluation_on():
    rows = with_proxy(simulate(hacked(14), 2).observations, np.linspace(0, 6, 14).tolist())
    verdicts = replay(GuardConfig(), rows)
    share = [(row.scores >= 0.95).mean() >= 0.9 for row in rows]
    assert 0 < sum(share) < 14
    assert ["saturation" in verdict.signals for verdict in verdicts[1:]] == share[1:]


def test_a_restored_guard_says_what_the_first_one_says():
    run = simulate(hacked(12), 5)
    whole = Guard(GuardConfig(), {"judge0": reward_of_red, "judge1": reward_of_red})
    verdicts = [whole.add(row) for row in run.observations]
    stopped = Guard(GuardConfig(), {"judge0": reward_of_red, "judge1": reward_of_red})
    for row in run.observations[:6]:
        stopped.add(row)
    resumed = Guard(GuardConfig(), {"judge0": reward_of_red, "judge1": reward_of_red})
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict(), allow_nan=False)))
    assert [resumed.add(row) for row in run.observations[6:]] == verdicts[6:]
    assert resumed.state_dict() == whole.state_dict()


def test_recorded_observations_are_judged_as_they_were():
    guard = Guard(GuardConfig(), {"redness": reward_of_red})
    verdicts = checked(guard, [0.1, 0.3, 0.5, 0.4, 0.3])
    stored = json.loads(json.dumps([row.to_json() for row in guard.observations]))
    assert list(replay(GuardConfig(), [Observation.from_json(row) for row in stored])) == verdicts


def test_a_rolled_back_run_is_compared_with_what_is_left():
    guard = Guard(GuardConfig(smoothing=1), {"redness": reward_of_red})
    checked(guard, [0.1, 0.5, 0.4])
    guard.forget_after(10)
    pixels, prompts = pictures(0.55)
    verdict = guard.check(20, pixels, prompts, [0.0] * 24)
    assert (verdict.state, verdict.best_step) == ("warning", 20)


def test_a_loop_that_went_back_is_told_to_forget_what_came_after():
    guard = Guard(GuardConfig(statistics_drift=99.0), {"redness": reward_of_red})
    checked(guard, [0.1, 0.2, 0.3])
    with pytest.raises(UsageError, match=r"saw step 20 already; 15 is not later\. After .*, call forget_after"):
        guard.check(15, *pictures(0.3), [0.0] * 24)
    guard.forget_after(10)
    assert guard.check(15, *pictures(0.3), [0.0] * 24).best_step == 15


def test_without_a_held_out_judge_there_is_no_guard():
    with pytest.raises(UsageError, match="held-out judge"):
        Guard(GuardConfig(), {})


def test_other_prompts_than_at_first_are_refused():
    guard = Guard(GuardConfig(), {"redness": reward_of_red})
    checked(guard, [0.1])
    pixels, prompts = pictures(0.1)
    with pytest.raises(UsageError, match="same prompts"):
        guard.check(10, pixels, [*prompts[2:], "new", "new"], [0.0] * 24)


@pytest.mark.parametrize("rewards", [[float("nan")] * 24, [0.0] * 23])
def test_a_judge_without_usable_rewards_stops_and_nothing_is_remembered(rewards):
    guard = Guard(GuardConfig(), {"broken": lambda pixels, prompts: rewards})
    with pytest.raises(RewardError, match="broken"):
        checked(guard, [0.1])
    assert guard.observations == ()


def test_vanishing_spread_is_hacking_to_the_papers_signal():
    pixels, prompts = pictures(0.1)
    detector = SpreadDetector(SpreadConfig(window=1, of="reward", share=0.5))
    wide = [float(n % 2) for n in range(24)]
    # half the distance is a quarter of the variance
    verdicts = [detector.check(10 * n, pixels, prompts, [w * r for r in wide]) for n, w in enumerate((1.0, 0.9, 0.5))]
    assert [verdict.state for verdict in verdicts] == ["healthy", "healthy", "hacking"]
    assert verdicts[-1].best_step == 10


def test_the_papers_signal_replays_a_recorded_run_with_other_thresholds():
    observations = simulate(risen(6), 0).observations
    narrow = [replace(row, proxy=row.proxy * 0.8**index) for index, row in enumerate(observations)]
    loose, strict = (replay(SpreadConfig(of="reward", share=share), narrow)[-1].state for share in (0.01, 0.9))
    assert (loose, strict) == ("healthy", "hacking")


def test_a_restored_detector_says_what_the_first_one_says():
    rows = simulate(hacked(6), 1).observations
    whole, resumed = SpreadDetector(SpreadConfig()), SpreadDetector(SpreadConfig())
    verdicts = [whole.add(row) for row in rows[:3]]
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert [resumed.add(row) for row in rows[3:]] == list(replay(SpreadConfig(), rows))[3:]
    assert len(verdicts) == 3


def test_a_drift_is_in_standard_deviations_of_the_base_policys_prompts():
    rng = np.random.default_rng(0)
    fine = 0.0175 + 0.0067 * rng.standard_normal(48)
    first, now = ({"fine": fine, "none": np.zeros(48)}, {"fine": fine + 2 * fine.std(), "none": np.full(48, 0.01)})
    rows = simulate(risen(2), 0).observations
    rows = [replace(row, statistics=statistics) for row, statistics in zip(rows, (first, now), strict=True)]
    drift = statistics_drift(rows)
    assert drift["fine"] == pytest.approx(2)
    # Nothing was clipped on any prompt: a shift counts in steps of 0.005.
    assert drift["none"] == pytest.approx(2)


@pytest.mark.parametrize("change", [lambda pixels: 2 * pixels - 1, lambda pixels: 255 * pixels])
def test_pictures_in_another_range_are_refused(change):
    guard = Guard(GuardConfig(), {"redness": reward_of_red})
    pixels, prompts = pictures(0.2)
    with pytest.raises(UsageError, match="no image in"):
        guard.check(0, change(pixels), prompts, [0.0] * 24)
    assert guard.observations == ()


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_pictures_that_are_not_finite_are_no_hacking(broken: float):
    guard = Guard(GuardConfig(), {"redness": lambda pixels, prompts: [0.0] * 24})
    pixels, prompts = pictures(0.2)
    guard.check(0, pixels, prompts, [0.0] * 24)
    with pytest.raises(NonFiniteError, match="pixels that are not finite"):
        guard.check(10, (pixels + 1) * broken, prompts, [0.0] * 24)
    assert len(guard.verdicts) == 1


def state_after(guard, steps, distances=(None, None)):
    for step, distance in zip(steps, distances, strict=True):
        guard.check(step, *pictures(0.2), [0.0] * 24, distance)
    return json.loads(json.dumps(guard.state_dict(), allow_nan=False))


def test_steps_and_distances_of_any_library_are_stored_as_json():
    guard = Guard(GuardConfig(), {"redness": reward_of_red})
    state = state_after(guard, [np.int64(0), torch.tensor(10)], [np.float32(0.5), torch.tensor(0.25)])
    assert [row["optimizer_step"] for row in state["observations"]] == [0, 10]
    assert [row["distance"] for row in state["observations"]] == [0.5, 0.25]


def test_a_state_of_another_kind_is_refused_and_changes_nothing():
    guard = Guard(GuardConfig(), {"redness": reward_of_red})
    state_after(guard, [0, 10])
    with pytest.raises(CheckpointError, match="state of the guard"):
        guard.load_state_dict({"observations": []})
    assert len(guard.observations) == 2


@pytest.mark.parametrize(
    "give",
    [
        lambda values: values,
        lambda values: values.tolist(),
        list,
        lambda values: [value.bfloat16() for value in values],
        lambda values: values.clone().requires_grad_(),
        lambda values: [value.clone().requires_grad_() for value in values],
        lambda values: values.numpy().astype(np.float16),
        lambda values: (value for value in values.tolist()),
    ],
)
def test_a_judge_may_give_numbers_in_any_form(give):
    values = torch.arange(24) / 8  # exact in half precision
    guard = Guard(GuardConfig(), {"any": lambda pixels, prompts: give(values)})
    guard.check(0, *pictures(0.2), values)
    assert guard.observations[0].held_out["any"].tolist() == [(4 * n + 1) / 16 for n in range(12)]


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (lambda: 1 / 0, "rude: raised ZeroDivisionError: division by zero"),
        (lambda: ([0.0] * 24, {}), "rude: gave list, not one number a picture"),
        (lambda: 1.0, "rude: gave float, not one number a picture"),
        (lambda: None, "rude: gave NoneType, not one number"),
        (lambda: ["0.5"] * 24, "which are no numbers"),
        (lambda: [None] * 24, "which are no numbers"),
        (lambda: [[0.0]] * 24, r"gave rewards of shape \(24, 1\)"),
    ],
)
def test_what_a_judge_does_wrong_is_said_under_its_name(answer, cause: str):
    guard = Guard(GuardConfig(), {"rude": lambda pixels, prompts: answer()})
    with pytest.raises(RewardError, match=cause):
        guard.check(0, *pictures(0.2), [0.0] * 24)
    assert guard.observations == ()


@pytest.mark.parametrize(
    ("features", "cause"),
    [
        (lambda pixels: pixels.flatten(1) * torch.nan, "features: gave numbers that are not finite"),
        (lambda pixels: pixels.flatten(1).repeat(2, 1), "features: gave 48 rows for 24 pictures"),
        (lambda pixels: pixels.flatten(1)[:3], "features: gave 3 rows for 24 pictures"),
        (lambda pixels: pixels.flatten(2), "features: gave an array of shape"),
        (lambda pixels: 1 / 0, "features: raised ZeroDivisionError"),
    ],
)
def test_features_that_say_nothing_of_diversity_are_refused(features, cause: str):
    guard = Guard(GuardConfig(), {"redness": reward_of_red}, features)
    with pytest.raises(RewardError, match=cause):
        guard.check(0, *pictures(0.2), [0.0] * 24)


def clips(still: torch.Tensor, frames: int) -> torch.Tensor:
    return still[:, None].repeat(1, frames, 1, 1, 1)


def seen(pixels: torch.Tensor, prompts: list[str], features=None) -> Observation:
    judges = {"any": lambda pixels, prompts: [0.0] * len(prompts)}
    return observe(0, pixels, prompts, [0.0] * len(prompts), judges, features)


def test_clips_that_stand_still_are_seen_as_their_picture():
    pixels, prompts = pictures(0.2)
    picture, clip = seen(pixels, prompts), seen(clips(pixels, 5), prompts)
    for name, values in picture.statistics.items():
        np.testing.assert_allclose(clip.statistics[name], values)
    np.testing.assert_allclose(clip.diversity, picture.diversity)


def test_a_statistic_of_a_clip_is_the_mean_over_a_few_of_its_frames():
    levels = torch.tensor([0.0, 0.3, 0.9, 0.6, 0.2])
    pixels = levels[None, :, None, None, None].expand(4, 5, 3, 8, 8)
    # Four of five frames: places 0, 1.33, 2.67 and 4, rounded.
    expected = (0.0 + 0.3 + 0.6 + 0.2) / 4
    np.testing.assert_allclose(seen(pixels, ["a", "a", "b", "b"]).statistics["brightness"], expected, rtol=1e-5)


def test_clips_that_differ_at_one_moment_only_are_half_as_far_apart():
    asked: list[int] = []

    def features(pixels: torch.Tensor) -> torch.Tensor:
        asked.append(len(pixels))
        return pixels.mean((2, 3))

    pixels = torch.zeros(2, 4, 3, 8, 8)
    pixels[1, 2, 0] = 1.0
    # The distance is 1 at one of four moments: the root of a quarter.
    np.testing.assert_allclose(seen(pixels, ["a", "a"], features).diversity, [0.5])
    assert asked == [8]


def test_judges_see_whole_clips():
    shapes: list[tuple[int, ...]] = []

    def judge(pixels: torch.Tensor, prompts) -> list[float]:
        shapes.append(tuple(pixels.shape))
        return [0.0] * len(prompts)

    pixels, prompts = pictures(0.2)
    Guard(GuardConfig(), {"any": judge}).check(0, clips(pixels, 5), prompts, [0.0] * 24)
    assert shapes == [(24, 5, 3, 8, 8)]
