from dataclasses import replace

import pytest
import torch

from rewarddance.core.errors import UsageError
from rewarddance.core.seeding import derive_seed
from rewarddance.generators.sampling import generate
from rewarddance.search.bench import Drawing
from rewarddance.search.best_of_n import BestOfNSettings, affordable_candidates, best_of_n
from rewarddance.search.budget import Budget
from rewarddance.search.verification import Verifier
from tests.search.gaussian_generator import GaussianGenerator, KnownJudge, brightness

EIGHT = BestOfNSettings(candidates=8, seed=3)


def search(judge=None, way="score", settings=EIGHT, generator=None, prompt="a cat", **options):
    verifier = Verifier(judge or KnownJudge(), way, **options)
    return best_of_n(generator or GaussianGenerator(), verifier, [prompt], settings)[0]


def levels_of(result):
    return [brightness(candidate.pixels) for candidate in result.candidates]


def test_the_winner_is_the_picture_that_the_verifier_likes_best():
    result = search()
    levels = levels_of(result)
    assert list(result.order) == sorted(range(8), key=lambda index: -levels[index])
    assert brightness(result.winner.pixels) == max(levels)
    assert [one.opinion.reward for one in result.candidates] == pytest.approx(levels, abs=1e-5)


def test_candidates_are_the_generators_own_pictures_in_8_bits():
    result = search()
    seeds = [derive_seed(3, "search", "a cat", index) for index in range(8)]
    made = generate(GaussianGenerator(), ["a cat"] * 8, seeds)
    assert torch.equal(torch.stack([one.pixels for one in result.candidates]), (made * 255).round() / 255)
    assert [one.seed for one in result.candidates] == seeds


def test_a_larger_n_begins_with_the_candidates_of_a_smaller_one():
    few, many = search(settings=BestOfNSettings(3, seed=3)), search()
    assert levels_of(few) == levels_of(many)[:3]


def test_a_prompt_has_its_own_noise():
    assert set(levels_of(search())).isdisjoint(levels_of(search(prompt="a dog")))


@pytest.mark.parametrize(("way", "judgements"), [("score", 8), ("round_robin", 28), ("knock_out", 7)])
def test_every_way_to_verify_finds_the_best_and_costs_what_was_stated(way: str, judgements: int):
    generator, judge = GaussianGenerator(), KnownJudge()
    result = search(judge, way, generator=generator)
    assert brightness(result.winner.pixels) == max(levels_of(result))
    assert result.stated == result.spent == Budget(velocities=64, decodes=8, judgements=judgements)
    assert result.spent == Budget(generator.velocities, generator.decodes, judge.asked)


def test_a_tournament_counts_wins():
    result = search(way="round_robin")
    levels = levels_of(result)
    assert [one.opinion.wins for one in result.candidates] == [sum(own > other for other in levels) for own in levels]


@pytest.mark.parametrize("way", ["score", "round_robin", "knock_out"])
def test_a_picture_that_cannot_be_judged_never_wins(way: str):
    brightest = max(levels_of(search()))

    def shows_it(request):
        return any(
            one is not None and brightness(one) == pytest.approx(brightest, abs=1e-5)
            for one in (request.candidate, request.reference_image)
        )

    result = search(KnownJudge(fails=shows_it), way)
    left_out = levels_of(result).index(brightest)
    assert left_out not in result.order
    assert len(result.order) == 7
    assert brightness(result.winner.pixels) == sorted(levels_of(result))[-2]
    opinion = result.candidates[left_out].opinion
    assert (opinion.reward, opinion.wins, opinion.status) == (None, None, "non_finite")
    assert opinion.message == "the model answered with nan"
    assert result.failed_judgements == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("way", ["score", "round_robin", "knock_out"])
def test_a_reward_that_is_no_finite_number_never_wins(way: str, value: float):
    darkest = min(levels_of(search()))

    def mind(picture):
        return value if brightness(picture) == pytest.approx(darkest, abs=1e-5) else brightness(picture)

    result = search(KnownJudge(mind), way)
    left_out = levels_of(result).index(darkest)
    assert left_out not in result.order
    assert result.candidates[left_out].opinion.reward is None
    assert result.candidates[left_out].opinion.status == "non_finite"
    assert "no finite number" in result.candidates[left_out].opinion.message


def test_a_judge_that_gives_too_few_judgements_or_none_is_told_so():
    class Short(KnownJudge):
        def judge(self, requests):
            return super().judge(requests)[:-1]

    class Numbers(KnownJudge):
        def judge(self, requests):
            return [1.0 for _ in requests]

    with pytest.raises(UsageError, match="7 judgements for 8 requests"):
        search(Short())
    with pytest.raises(UsageError, match="gave float where a Judgement"):
        search(Numbers())


def test_a_ranking_whose_judgements_stay_on_a_service_is_enough():
    class Served(KnownJudge):
        def rank(self, prompt, candidates, instruction=None):
            return replace(super().rank(prompt, candidates, instruction), judgements=())

    result = search(Served(), "round_robin")
    assert brightness(result.winner.pixels) == max(levels_of(result))
    assert result.spent == result.stated


@pytest.mark.parametrize("way", ["score", "round_robin", "knock_out"])
def test_a_prompt_of_which_nothing_can_be_judged_has_no_winner(way: str):
    result = search(KnownJudge(fails=lambda request: True), way)
    assert result.winner is None
    assert result.order == ()
    assert result.problem == "none of 8 pictures could be judged: the model answered with nan"


def test_pixels_that_are_not_finite_are_not_shown_to_the_verifier():
    class Overflowing(GaussianGenerator):
        def decode(self, latents, size=None):
            pixels = super().decode(latents, size)
            pixels[0, 0, 0, 0] = float("nan")
            return pixels

    judge = KnownJudge()
    result = search(judge, generator=Overflowing())
    assert judge.asked == 7
    assert result.candidates[0].opinion.status == "broken_picture"
    assert 0 not in result.order


def test_one_readable_picture_alone_wins_no_tournament():
    class Overflowing(GaussianGenerator):
        def decode(self, latents, size=None):
            pixels = super().decode(latents, size)
            pixels[1:] = float("nan")
            return pixels

    for way in ("round_robin", "knock_out"):
        result = search(way=way, generator=Overflowing(), settings=BestOfNSettings(3))
        assert result.winner is None
        assert "no other picture" in result.problem


def test_scores_are_taken_against_the_references_of_the_prompt():
    references = {"a cat": ["one.png"], "a dog": ["one.png", "two.png"]}
    seen = []

    class Recording(KnownJudge):
        def judge(self, requests):
            seen.extend(request.reference_image for request in requests)
            return super().judge([replace(request, reference_image=None) for request in requests])

    for prompt in references:
        search(Recording(), prompt=prompt, references=references, settings=BestOfNSettings(1))
    assert seen == ["one.png", ("one.png", "two.png")]


def test_a_tournament_has_no_use_for_references():
    with pytest.raises(UsageError, match="leave the references out"):
        Verifier(KnownJudge(), "knock_out", references={"a cat": ["one.png"]})


@pytest.mark.parametrize("measure", ["velocities", "all"])
def test_as_many_candidates_are_affordable_as_the_budget_pays_for(measure: str):
    verifier = Verifier(KnownJudge())
    # Eight steps, a decode and a judgement each: 10 evaluations a candidate, 8 of them velocities.
    budget = Budget(velocities=100, decodes=20, judgements=20)
    expected = {"velocities": 12, "all": 14}[measure]
    assert affordable_candidates(budget, 8, verifier, measure) == expected


def test_the_batch_size_changes_nothing():
    generator, verifier = GaussianGenerator(), Verifier(KnownJudge())
    alone = best_of_n(generator, verifier, ["a cat"], EIGHT, Drawing(batch_size=1))[0]
    assert [one.opinion for one in alone.candidates] == [one.opinion for one in search().candidates]


def test_best_of_nothing_is_refused():
    with pytest.raises(UsageError, match="at least one candidate"):
        BestOfNSettings(0)
