from itertools import pairwise
from statistics import mean

import pytest
import torch

from rewarddance.core.errors import UsageError
from rewarddance.search.bench import DEFAULT_DRAWING, Drawing
from rewarddance.search.best_of_n import BestOfNSettings, affordable_candidates, best_of_n
from rewarddance.search.budget import Budget
from rewarddance.search.path_search import PathSettings, path_budget, search_paths
from rewarddance.search.verification import Verifier
from tests.search.gaussian_generator import GaussianGenerator, KnownJudge, brightness

# On eight even steps: branch after step 3 (0.625) and step 5 (0.375), from one and two steps before.
SMALL = PathSettings(paths=2, branches=3, starts=5, levels=(0.625, 0.375), renoise=0.25, seed=1)


def search(settings=SMALL, judge=None, way="score", generator=None, prompt="a cat", drawing=DEFAULT_DRAWING):
    return search_paths(
        generator or GaussianGenerator(), Verifier(judge or KnownJudge(), way), [prompt], settings, drawing
    )[0]


@pytest.mark.parametrize(
    ("changes", "velocities", "looks"),
    [
        # 5 starts of 3 steps and a look at each; twice 2 paths that go on alone for 2, 3 steps and 4 branches from 2
        # steps back; a look at the 6 branches of the first round.
        ({}, 5 * 3 + 5 + 2 * 2 + 4 * 4 + 6 + 2 * 3 + 4 * 5, 5 + 6),
        # No look at the starts, as all of them stay.
        ({"starts": None}, 2 * 3 + 2 * 2 + 4 * 4 + 6 + 2 * 3 + 4 * 5, 6),
        # All branches are fresh.
        ({"keeps_path": False}, 5 * 3 + 5 + 6 * 4 + 6 + 6 * 5, 5 + 6),
        # No branch is: paths are only pruned, and with as many starts as paths not even that.
        ({"branches": 1}, 5 * 3 + 5 + 2 * 2 + 2 + 2 * 3, 5 + 2),
    ],
)
def test_the_cost_is_stated_exactly_and_counted_where_it_is_spent(changes, velocities: int, looks: int):
    settings = PathSettings(**{**{name: getattr(SMALL, name) for name in SMALL.__slots__}, **changes})
    generator, judge = GaussianGenerator(), KnownJudge()
    result = search(settings, judge, generator=generator)
    finished = settings.paths * settings.branches
    assert result.stated == Budget(velocities, looks + finished, looks + finished)
    assert result.spent == result.stated
    assert result.spent == Budget(generator.velocities, generator.decodes, judge.asked)
    assert len(result.looks) == looks
    assert len(result.candidates) == finished


def test_paths_that_neither_branch_nor_end_are_best_of_n():
    settings = PathSettings(paths=4, branches=1, starts=None, levels=(0.5,), seed=1)
    plain = best_of_n(GaussianGenerator(), Verifier(KnownJudge()), ["a cat"], BestOfNSettings(4, seed=1))[0]
    result = search(settings)
    assert all(torch.equal(own.pixels, other.pixels) for own, other in zip(result.candidates, plain.candidates))  # noqa: B905
    assert result.order == plain.order


def test_the_best_paths_go_on_and_the_others_end():
    result = search()
    for number in (0, 1):
        looks = [look for look in result.looks if look.round == number]
        best = sorted(looks, key=lambda look: -look.opinion.reward)[:2]
        assert {look.lineage for look in looks if look.copies} == {look.lineage for look in best}
        assert all(look.copies == 3 for look in best)
    survivors = {look.lineage for look in result.looks if look.round == 1 and look.copies}
    assert {candidate.lineage[:-1] for candidate in result.candidates} == survivors


def test_looks_are_at_the_levels_that_were_asked_for():
    assert sorted({(look.round, look.sigma) for look in search().looks}) == [(0, 0.625), (1, 0.375)]


def test_a_path_that_is_kept_is_a_branch_without_fresh_noise():
    result = search(
        PathSettings(paths=1, branches=2, starts=None, levels=(0.5,), seed=1), generator=GaussianGenerator(16)
    )
    plain = best_of_n(GaussianGenerator(16), Verifier(KnownJudge()), ["a cat"], BestOfNSettings(1, seed=1))[0]
    kept = next(one for one in result.candidates if one.lineage == (0, 0))
    fresh = next(one for one in result.candidates if one.lineage == (0, 1))
    torch.testing.assert_close(kept.pixels, plain.candidates[0].pixels, rtol=0, atol=1 / 255)
    assert not torch.equal(fresh.pixels, kept.pixels)
    # What the branch keeps of the path makes them alike.
    assert torch.corrcoef(torch.stack([kept.pixels.flatten(), fresh.pixels.flatten()]))[0, 1] > 0.2


def test_branches_have_the_spread_of_the_generator():
    settings = PathSettings(paths=1, branches=400, starts=None, levels=(0.5,), renoise=0.25, keeps_path=False)
    result = search(settings, generator=GaussianGenerator(1), drawing=Drawing(denoising_steps=16, batch_size=64))
    first = torch.stack([one.pixels[0, 0, 0] for one in result.candidates]) * 16
    # Latents at 0.75 hold 0.25**2 / (0.25**2 + 0.75**2), a tenth, of a pixel's variance; the rest, 0.95 in standard
    # deviations, is drawn anew by every branch.
    assert 0.5 < float(first.std()) < 1.1


def test_search_over_paths_beats_best_of_n_at_the_same_number_of_evaluations():
    prompts = [f"cat {number}" for number in range(6)]
    verifier = Verifier(KnownJudge())
    settings = PathSettings(paths=2, branches=4, starts=8, levels=(0.625, 0.375, 0.25), renoise=0.25)
    found = search_paths(GaussianGenerator(), verifier, prompts, settings)
    n = affordable_candidates(found[0].spent, 8, verifier)
    plain = best_of_n(GaussianGenerator(), verifier, prompts, BestOfNSettings(n))
    gains = [
        brightness(own.winner.pixels) - brightness(other.winner.pixels) for own, other in zip(found, plain, strict=True)
    ]
    assert plain[0].spent.total <= found[0].spent.total < plain[0].spent.total + 10
    assert mean(gains) > 0.03


def test_pairs_can_prune_paths():
    judge = KnownJudge()
    result = search(judge=judge, way="round_robin")
    # 5, 6 and 6 pictures: 10 + 15 + 15 pairs.
    assert result.stated.judgements == result.spent.judgements == judge.asked == 40
    assert result.winner.opinion.wins == 5.0


def test_a_path_that_cannot_be_judged_does_not_go_on():
    calls = iter(range(1000))
    judge = KnownJudge(fails=lambda request: next(calls) in (0, 2))
    result = search(judge=judge)
    ended = [look for look in result.looks if look.opinion.reward is None]
    assert [look.lineage for look in ended] == [(0,), (2,)]
    assert all(look.copies == 0 for look in ended)
    assert {candidate.lineage[0] for candidate in result.candidates}.isdisjoint({0, 2})
    assert result.winner is not None


def test_a_prompt_whose_paths_all_end_is_reported():
    calls = iter(range(1000))
    # The five starts are judged; of the six branches none is.
    result = search(judge=KnownJudge(fails=lambda request: next(calls) >= 5))
    assert result.winner is None
    assert result.candidates == ()
    assert result.problem == "none of 6 pictures could be judged: the model answered with nan"
    assert result.spent.velocities < result.stated.velocities


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": 0},
        {"branches": 0},
        {"paths": 4, "starts": 3},
        {"levels": ()},
        {"levels": (0.4, 0.6)},
        {"levels": (1.0, 0.5)},
        {"levels": (0.5, 0.0)},
        {"renoise": 0.0},
    ],
)
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(UsageError):
        PathSettings(**changes)


@pytest.mark.parametrize(
    ("levels", "message"), [((0.6, 0.5), "too few"), ((0.05,), "too few"), ((0.9,), "no other step")]
)
def test_levels_need_steps_of_their_own(levels, message: str):
    settings = PathSettings(levels=levels, renoise=0.2)
    sigmas = GaussianGenerator().sigmas(4)
    with pytest.raises(UsageError, match=message):
        path_budget(settings, sigmas, Verifier(KnownJudge()))


def test_the_same_seed_finds_the_same():
    first, second = search(), search()
    assert all(
        torch.equal(own.pixels, other.pixels) for own, other in zip(first.candidates, second.candidates, strict=True)
    )
    assert first.looks == second.looks


def test_levels_fall_in_the_default_settings():
    assert all(higher > lower for higher, lower in pairwise(PathSettings().levels))
