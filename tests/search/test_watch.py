from dataclasses import replace

import numpy as np
import pytest

from rewarddance.search.bench import Bench, Drawing
from rewarddance.search.best_of_n import BestOfNSettings, best_of_n
from rewarddance.search.budget import Budget
from rewarddance.search.path_search import PathSettings, search_paths
from rewarddance.search.verification import Verifier
from rewarddance.search.watch import Watch, summarise, watch, watch_budget
from tests.search.gaussian_generator import GaussianGenerator, KnownJudge, brightness

PROMPTS = [f"cat {number}" for number in range(10)]
# Without paths that are kept: such a one may be a plain picture.
PATHS = PathSettings(paths=2, branches=2, starts=None, levels=(0.5,), keeps_path=False)


def watched(settings, judge, prompts=PROMPTS):
    generator, verifier = GaussianGenerator(), Verifier(KnownJudge())
    search = best_of_n if isinstance(settings, BestOfNSettings) else search_paths
    return [
        watch(generator, verifier, judge, result, settings.seed)
        for result in search(generator, verifier, prompts, settings)
    ]


def seen(verifier_gain, judge_gain):
    return Watch(verifier_gain, judge_gain, 1.0, 1.0, Budget())


def test_a_judge_of_the_same_mind_confirms_the_winner():
    summary = summarise(watched(BestOfNSettings(6), KnownJudge()))
    assert summary.finding == "confirmed"
    assert summary.judge_gain == summary.verifier_gain
    assert summary.judge_agrees == 1.0


def test_a_judge_that_finds_winners_worse_calls_the_verifier_hacked():
    summary = summarise(watched(BestOfNSettings(6), KnownJudge(lambda picture: -brightness(picture))))
    assert summary.finding == "hacked"
    assert summary.judge_agrees == 0.0


def test_a_judge_with_an_unrelated_mind_decides_nothing_or_worse():
    def red_less_green(picture):
        red, green, _ = np.asarray(picture).mean(axis=(0, 1))
        return float(red - green)

    assert summarise(watched(BestOfNSettings(4), KnownJudge(red_less_green))).finding != "confirmed"


def test_few_prompts_decide_nothing():
    few = [seen(1.0, 1.0)] * 7
    assert summarise(few).finding == "undecided"
    assert summarise([*few, seen(1.0, 1.0)]).finding == "confirmed"


def test_the_gain_is_the_mean_over_plain_pictures():
    result = watched(PATHS, KnownJudge(), ["cat"])[0]
    generator = GaussianGenerator()
    bench = Bench(generator, "cat", Drawing(), PATHS.seed)
    plain = bench.pictures(bench.denoise(bench.noise(bench.seeds(4)), 0, bench.last))
    winner = search_paths(generator, Verifier(KnownJudge()), ["cat"], PATHS)[0].winner
    levels = [brightness(one) for one in plain]
    assert result.judge_gain == pytest.approx(brightness(winner.pixels) - sum(levels) / 4, abs=1e-5)


def test_pictures_of_best_of_n_are_plain_already_and_the_winner_is_not_held_against_itself():
    generator, judge = GaussianGenerator(), KnownJudge()
    verifier = Verifier(KnownJudge(lambda picture: -brightness(picture)))
    result = best_of_n(generator, verifier, ["cat"], BestOfNSettings(4))[0]
    before = generator.velocities
    found = watch(generator, verifier, judge, result, 0)
    assert generator.velocities == before
    assert found.spent == Budget(judgements=6)
    others = [brightness(one.pixels) for one in result.candidates if one is not result.winner]
    # Against itself the winner gains nothing, and it counts: against its losers alone it would always look better.
    gains = [brightness(result.winner.pixels) - other for other in others]
    assert found.judge_gain == pytest.approx(sum(gains) / 4, abs=1e-5)


def test_watching_costs_no_more_than_was_stated():
    found = watched(PATHS, KnownJudge(), ["cat"])[0]
    assert found.spent == watch_budget(8, made_plain=0) == Budget(32, 4, 8)
    assert watched(BestOfNSettings(3), KnownJudge(), ["cat"])[0].spent.velocities == watch_budget(8, 3).velocities == 8


def test_a_judge_that_fails_gives_no_number():
    found = watched(PATHS, KnownJudge(fails=lambda request: True), ["cat"])[0]
    assert found.judge_gain is None
    assert found.verifier_gain is not None
    assert summarise([found]).judge_gain is None


def test_without_a_winner_nothing_is_compared():
    generator, verifier = GaussianGenerator(), Verifier(KnownJudge(fails=lambda request: True))
    result = best_of_n(generator, verifier, ["cat"], BestOfNSettings(4))[0]
    found = watch(generator, verifier, KnownJudge(), result, 0)
    assert (found.verifier_gain, found.judge_gain, found.spent) == (None, None, Budget())


def test_copies_of_one_picture_have_no_diversity():
    generator, verifier = GaussianGenerator(), Verifier(KnownJudge())
    result = search_paths(generator, verifier, ["cat"], PATHS)[0]
    copies = tuple(replace(one, pixels=result.candidates[0].pixels) for one in result.candidates)
    found = watch(generator, verifier, KnownJudge(), replace(result, candidates=copies), 0)
    assert found.diversity == pytest.approx(0.0)
    assert found.plain_diversity > 0.01
