import numpy as np
import pytest
import torch

from rewarddance.core.errors import UsageError
from rewarddance.objectives.sde import SdeNoise
from rewarddance.search.bench import DEFAULT_DRAWING, Drawing
from rewarddance.search.budget import Budget
from rewarddance.search.particles import ParticleSettings, particle_budget, steer_particles
from rewarddance.search.verification import Verifier
from tests.search.gaussian_generator import GaussianGenerator, KnownJudge, brightness

SMALL = ParticleSettings(particles=6, levels=(0.75, 0.5), seed=1)


def steer(settings=SMALL, judge=None, generator=None, drawing=DEFAULT_DRAWING):
    return steer_particles(
        generator or GaussianGenerator(), Verifier(judge or KnownJudge()), ["a cat"], settings, drawing
    )[0]


def test_the_cost_is_stated_exactly_and_counted_where_it_is_spent():
    generator, judge = GaussianGenerator(), KnownJudge()
    result = steer(judge=judge, generator=generator)
    # Six particles of eight steps; two looks on the way and one at the end.
    assert result.stated == result.spent == Budget(velocities=48, decodes=18, judgements=18)
    assert result.spent == Budget(generator.velocities, generator.decodes, judge.asked)


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
def test_weighted_particles_have_the_tilted_distribution(potential: str):
    # The prior of one pixel is N(0, 1) in each of three channels; the judge's reward is red. Tilting by exp(0.7 red)
    # gives N(0.7, 1) in red and leaves green alone.
    def red(picture):
        return brightness(np.asarray(picture)[..., 0])

    settings = ParticleSettings(particles=300, levels=(0.7, 0.4), strength=0.7, potential=potential, seed=5)
    drawing = Drawing(denoising_steps=20, batch_size=300)
    result = steer(settings, KnownJudge(red), GaussianGenerator(1), drawing)
    weights = torch.tensor([one.weight for one in result.candidates])
    latents = torch.stack([one.pixels[:, 0, 0] for one in result.candidates])[:, :2] * 16 - 8
    mean = (weights[:, None] * latents).sum(0)
    spread = (weights[:, None] * (latents - mean) ** 2).sum(0).sqrt()
    assert weights.sum().item() == pytest.approx(1.0)
    # 300 particles of which some share ancestors: standard errors of about 0.08.
    assert mean[0].item() == pytest.approx(0.7, abs=0.2)
    assert mean[1].item() == pytest.approx(0.0, abs=0.25)
    assert spread[0].item() == pytest.approx(1.0, abs=0.2)


def test_good_particles_are_copied_in_the_place_of_bad_ones():
    result = steer(ParticleSettings(particles=6, levels=(0.75, 0.5), strength=50.0, seed=1))
    for number in (0, 1):
        looks = [look for look in result.looks if look.round == number]
        best = max(looks, key=lambda look: look.opinion.reward)
        assert sum(look.copies for look in looks) == 6
        assert best.copies == max(look.copies for look in looks) > 1


def test_copies_go_different_ways():
    result = steer(ParticleSettings(particles=6, levels=(0.75, 0.5), strength=1000.0, seed=1))
    assert len({candidate.lineage[0] for candidate in result.candidates}) == 1
    assert len({candidate.pixels.mean().item() for candidate in result.candidates}) == 6


def test_the_winner_is_the_best_finished_picture():
    result = steer()
    levels = [brightness(candidate.pixels) for candidate in result.candidates]
    assert brightness(result.winner.pixels) == max(levels)
    assert all(len(candidate.lineage) == 3 for candidate in result.candidates)


def test_a_particle_that_cannot_be_judged_leaves_no_copies():
    calls = iter(range(1000))
    result = steer(judge=KnownJudge(fails=lambda request: next(calls) in (1, 4)))
    ended = [look for look in result.looks if look.opinion.reward is None]
    assert [look.lineage for look in ended] == [(1,), (4,)]
    assert all(look.copies == 0 for look in ended)
    assert {candidate.lineage[0] for candidate in result.candidates}.isdisjoint({1, 4})


def test_where_none_can_be_judged_all_stay_as_they_are():
    calls = iter(range(1000))
    result = steer(judge=KnownJudge(fails=lambda request: next(calls) < 6))
    assert [look.copies for look in result.looks if look.round == 0] == [1] * 6
    assert result.winner is not None
    assert result.failed_judgements == 6


def test_particles_that_cannot_be_judged_at_the_end_have_no_weight_and_no_winner():
    calls = iter(range(1000))
    result = steer(judge=KnownJudge(fails=lambda request: next(calls) >= 12))
    assert result.winner is None
    assert {one.weight for one in result.candidates} == {0.0}
    assert result.problem == "none of 6 pictures could be judged: the model answered with nan"


def test_a_tournament_has_no_scores_to_give():
    with pytest.raises(UsageError, match="use score"):
        steer_particles(GaussianGenerator(), Verifier(KnownJudge(), "round_robin"), ["a cat"], SMALL)


@pytest.mark.parametrize("levels", [(0.99,), (0.05,), (0.5, 0.45)])
def test_levels_need_steps_of_their_own(levels):
    settings = ParticleSettings(levels=levels)
    with pytest.raises(UsageError, match="too few"):
        particle_budget(settings, GaussianGenerator().sigmas(6), Verifier(KnownJudge()))


@pytest.mark.parametrize(
    "changes",
    [{"particles": 1}, {"strength": 0.0}, {"levels": (0.4, 0.6)}, {"levels": (1.0,)}, {"noise": SdeNoise("flow", 0.0)}],
)
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(UsageError):
        ParticleSettings(**changes)


def test_a_look_after_the_last_stochastic_step_is_refused():
    """Copies that are made there would stay copies: Stable Diffusion 3 goes far down at the step before the last."""
    even = torch.linspace(1.0, 0.001, 10)
    sigmas = torch.cat([3 * even / (1 + 2 * even), torch.zeros(1)])
    verifier = Verifier(KnownJudge())
    allowed = ParticleSettings(particles=2, levels=(float(sigmas[7]),))
    assert particle_budget(allowed, sigmas, verifier).judgements == 4
    with pytest.raises(UsageError, match="none after step 8, the last stochastic one"):
        particle_budget(ParticleSettings(particles=2, levels=(float(sigmas[8]),)), sigmas, verifier)
