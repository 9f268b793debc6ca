import json
from pathlib import Path

import numpy as np
import pytest

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.types import Judgement, Status
from rewarddance.evaluation.overoptimization import CurveSettings, best_of_n_curve, write_curves
from rewarddance.evaluation.sample_rewards import reward_samples
from rewarddance.metrics.overoptimization import best_of_n_kl, best_of_n_mean

ALPHA, BETA = 0.8, 0.3
SAMPLES = 32
QUICK = CurveSettings(resamples=200)


def planted(prompts: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Proxy and gold whose best-of-n gains follow d (ALPHA - BETA d) at n = 1, 2, 4, ... 32, but for the noise."""
    rng = np.random.default_rng(seed)
    ranks = np.arange(SAMPLES, dtype=float)
    sizes = [1, 2, 4, 8, 16, 32]
    weights = np.array([[best_of_n_mean(ranks, unit, n) for unit in np.eye(SAMPLES)] for n in sizes])
    distances = np.sqrt([best_of_n_kl(n) for n in sizes])
    by_rank = np.linalg.pinv(weights) @ (distances * (ALPHA - BETA * distances))
    proxy, gold = np.empty((prompts, SAMPLES)), np.empty((prompts, SAMPLES))
    for prompt in range(prompts):
        order = rng.permutation(SAMPLES)
        proxy[prompt, order] = ranks
        gold[prompt, order] = by_rank + rng.normal(scale=noise, size=SAMPLES) + rng.normal()
    return proxy, gold


def test_the_fit_recovers_planted_coefficients():
    law = best_of_n_curve("m", *planted(20, noise=0.0), QUICK).gold_law.fit
    assert (law.alpha, law.beta, law.r_squared) == pytest.approx((ALPHA, BETA, 1.0), abs=1e-6)


def test_with_noise_the_planted_coefficients_lie_in_their_intervals():
    law = best_of_n_curve("m", *planted(150, noise=0.4), QUICK).gold_law
    assert law.alpha.low < ALPHA < law.alpha.high
    assert 0 < law.beta.low < BETA < law.beta.high
    assert (law.alpha.estimate, law.beta.estimate) == pytest.approx((law.fit.alpha, law.fit.beta))


def test_gains_start_at_nothing_and_follow_the_law():
    points = best_of_n_curve("m", *planted(20, noise=0.0), QUICK).points
    gains = [point.gold_gain.estimate for point in points]
    assert [point.n for point in points] == [1, 2, 4, 8, 16, 32]
    assert gains == pytest.approx([p.distance * (ALPHA - BETA * p.distance) for p in points], abs=1e-9)


def test_what_all_prompts_gain_alike_has_no_width():
    # Prompts differ in their level, not in what choosing gains.
    points = best_of_n_curve("m", *planted(20, noise=0.0), QUICK).points
    gain, level = points[2].gold_gain, points[2].gold
    assert gain.high - gain.low == pytest.approx(0.0, abs=1e-9)
    assert level.high - level.low > 0.1


def test_samples_without_a_judgement_take_no_part():
    proxy, gold = planted(4, noise=0.2)
    wider = [np.concatenate([table, np.full((4, 3), np.nan)], axis=1) for table in (proxy, gold)]
    wider[1][:, -3:] = 1e6
    sizes = CurveSettings(sizes=(1, 4, 32), resamples=50)
    whole, holed = best_of_n_curve("m", proxy, gold, sizes), best_of_n_curve("m", *wider, sizes)
    assert holed.points == whole.points
    assert (whole.n_failed, holed.n_failed) == (0, 12)


def test_a_prompt_with_too_few_judged_samples_is_left_out_and_counted():
    proxy, gold = planted(5, noise=0.2)
    proxy[2, 0] = np.nan
    curve = best_of_n_curve("m", proxy, gold, QUICK)
    assert (curve.n_prompts, curve.n_left_out, curve.n_failed) == (4, 1, 1)


def test_without_a_whole_prompt_there_is_no_curve():
    proxy, gold = planted(2, noise=0.2)
    gold[:, 0] = np.nan
    with pytest.raises(DataError, match="no prompt has 32 judged samples"):
        best_of_n_curve("m", proxy, gold, QUICK)


@pytest.mark.parametrize("sizes", [(2, 4, 8), (1, 4), (1, 4, 2), (1, 4, 64)])
def test_sizes_that_make_no_curve_are_refused(sizes: tuple[int, ...]):
    with pytest.raises(UsageError, match="three sizes that ascend from 1"):
        best_of_n_curve("m", *planted(2, noise=0.0), CurveSettings(sizes=sizes))


def test_tables_of_other_samples_are_refused():
    with pytest.raises(UsageError, match="of the same samples"):
        best_of_n_curve("m", np.zeros((2, 8)), np.zeros((2, 9)))


def test_the_file_holds_figures_and_lines_to_draw(tmp_path: Path):
    curve = best_of_n_curve("small", *planted(5, noise=0.1), QUICK, "second judge", {"paradigm": "pairwise"})
    write_curves(tmp_path / "results" / "curves.json", [curve], {"seed": 3})
    stored = json.loads((tmp_path / "results" / "curves.json").read_text())
    one = stored["curves"][0]
    assert (stored["seed"], one["facets"], one["measured_by"]) == (3, {"paradigm": "pairwise"}, "second judge")
    lines = {series["name"]: series["points"] for series in one["chart"]["series"]}
    assert list(lines) == ["second judge", "second judge, fitted", "proxy", "proxy, fitted"]
    assert lines["second judge"][3]["y"] == one["points"][3]["gold_gain"]["estimate"]


def test_a_curve_is_the_same_in_every_run():
    tables = planted(6, noise=0.3)
    assert best_of_n_curve("m", *tables, QUICK) == best_of_n_curve("m", *tables, QUICK)


class _Lengths:
    """Likes long file names, and cannot read what is called broken."""

    def judge(self, requests):
        return [
            Judgement(Status.UNREADABLE_MEDIA, message="no")
            if request.candidate == "broken"
            else Judgement(Status.OK, reward=float(len(request.candidate)) - len(request.reference_image or ""))
            for request in requests
        ]


def test_rewards_of_samples_keep_their_places_and_failures_are_no_numbers():
    rewards = reward_samples(_Lengths(), ["p", "q"], [["a", "bb"], ["broken", "cccc"]])
    np.testing.assert_array_equal(rewards.log_odds, [[1, 2], [np.nan, 4]])
    assert [(one.prompt, one.sample, one.message) for one in rewards.failures] == [(1, 0, "no")]


def test_every_sample_of_a_prompt_meets_its_references():
    rewards = reward_samples(_Lengths(), ["p", "q"], [["a", "bb"], ["ccc", "cccc"]], references=["rr", "r"])
    assert rewards.log_odds.tolist() == [[-1, 0], [2, 3]]


def test_unequal_numbers_of_samples_are_refused():
    with pytest.raises(UsageError, match="as many samples for each prompt"):
        reward_samples(_Lengths(), ["p", "q"], [["a", "bb"], ["c"]])
