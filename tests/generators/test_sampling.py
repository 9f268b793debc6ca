import math
from typing import Any

import pytest
import torch
from torch.distributions import Normal

from rewarddance.core.errors import UsageError
from rewarddance.generators.sampling import (
    Trajectory,
    generate,
    largest_below_one,
    noise_levels,
    sample,
    sample_sde,
    stochastic_step,
)
from rewarddance.objectives.sde import SdeNoise, log_prob
from tests.generators.conftest import PROMPTS, SEEDS, SIZE, NewGenerator
from tests.search.gaussian_generator import GaussianGenerator
from tests.tiny_generators import GENERATOR_FAMILIES, GeneratorFamily

FAMILIES = GENERATOR_FAMILIES
STEPS = 3
GUIDANCE = 2.0
NOISE = SdeNoise("flow", 0.7)


def _start(generator: Any) -> tuple[Any, Any, Any]:
    return generator.encode(PROMPTS, SIZE), generator.initial_noise(SEEDS, SIZE), generator.sigmas(STEPS, SIZE)


def _trajectory(generator: Any, **changes: Any) -> Trajectory:
    conditions, latents, sigmas = _start(generator)
    options = {"noise": NOISE, "seeds": SEEDS, **changes}
    return sample_sde(generator, conditions, latents, sigmas, GUIDANCE, **options)


def test_the_way_can_be_gone_in_parts(generator_of: NewGenerator):
    generator = generator_of("sd3")
    conditions, latents, sigmas = _start(generator)
    whole = sample(generator, conditions, latents, sigmas, GUIDANCE)
    half = sample(generator, conditions, latents, sigmas, GUIDANCE, stop=1)
    assert torch.equal(sample(generator, conditions, half, sigmas, GUIDANCE, start=1), whole)
    assert torch.equal(sample(generator, conditions, latents, sigmas, GUIDANCE, stop=0), latents)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_hardly_depend_on_the_batch_size(generator_of: NewGenerator, family: GeneratorFamily):
    together, alone = (generate(generator_of(family), PROMPTS, SEEDS, SIZE, 2, batch_size=size) for size in (8, 1))
    torch.testing.assert_close(together, alone, rtol=0.0, atol=1e-4)


def test_every_prompt_needs_a_seed(generator_of: NewGenerator):
    with pytest.raises(UsageError, match="2 prompts and 1 seeds"):
        generate(generator_of("sd3"), PROMPTS, [1], SIZE)


def test_steps_without_noise_follow_the_ode(generator_of: NewGenerator):
    generator = generator_of("sd3")
    trajectory = _trajectory(generator, stochastic_steps=[])
    assert torch.equal(trajectory.final, sample(generator, *_start(generator), GUIDANCE))
    assert bool(trajectory.log_probs.isnan().all())


def test_steps_that_would_leave_noise_draw_nothing_unless_asked(generator_of: NewGenerator):
    trajectory = _trajectory(generator_of("sd3"))
    assert trajectory.stochastic_steps == (0,)  # of three: the second goes down to a hundredth
    assert trajectory.log_probs.isnan().tolist() == [[False, False], [True, True], [True, True]]
    asked = _trajectory(generator_of("sd3"), stochastic_steps=[0, 1])
    assert asked.log_probs.isnan().tolist() == [[False, False], [False, False], [True, True]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_importance_ratio_before_an_update_is_exactly_one(new_generator: NewGenerator, family: GeneratorFamily):
    generator = new_generator(family)
    trajectory = _trajectory(generator)
    conditions, _, sigmas = _start(generator)
    generator.module.requires_grad_(True)
    for step in trajectory.stochastic_steps:
        gaussian = stochastic_step(generator, conditions, trajectory.latents[step], sigmas, step, GUIDANCE, NOISE)
        again = log_prob(trajectory.latents[step + 1], gaussian)
        assert torch.equal((again - trajectory.log_probs[step]).exp(), torch.ones(2))
        assert again.requires_grad


def test_log_probabilities_are_a_normal_distributions(generator_of: NewGenerator):
    generator = generator_of("sd3")
    trajectory = _trajectory(generator, reduce="sum")
    conditions, latents, sigmas = _start(generator)
    velocity = generator.velocity(latents, sigmas[:1].expand(2), conditions, GUIDANCE)
    high, low = sigmas[0].item(), sigmas[1].item()
    # Flow-GRPO, arXiv:2505.05470, Eq. 9, with the second level in place of sigma 1 below the root.
    rate = 0.7 * math.sqrt(high / (1.0 - low))
    step = low - high
    mean = latents * (1.0 + rate**2 / (2 * high) * step) + velocity * (1.0 + rate**2 * (1.0 - high) / (2 * high)) * step
    expected = Normal(mean, rate * math.sqrt(-step)).log_prob(trajectory.latents[1]).flatten(1).sum(1)
    torch.testing.assert_close(trajectory.log_probs[0], expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rows_way_does_not_depend_on_the_others(generator_of: NewGenerator, family: GeneratorFamily):
    generator = generator_of(family)
    conditions, latents, sigmas = _start(generator)
    both = _trajectory(generator)
    alone = sample_sde(generator, conditions.select([1]), latents[1:], sigmas, GUIDANCE, NOISE, SEEDS[1:])
    torch.testing.assert_close(both.latents[:, 1:], alone.latents, rtol=0.0, atol=1e-4)


def test_seeds_of_steps_decide_the_way(generator_of: NewGenerator):
    first, same, other = (_trajectory(generator_of("sd3"), seeds=seeds).final for seeds in (SEEDS, SEEDS, [1, 2]))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_noise_of_steps_has_nothing_to_do_with_the_initial_noise_of_the_same_seed(generator_of: NewGenerator):
    generator = generator_of("sd3")
    conditions, latents, sigmas = _start(generator)
    gaussian = stochastic_step(generator, conditions, latents, sigmas, 0, GUIDANCE, NOISE)
    drawn = (_trajectory(generator).latents[1] - gaussian.mean) / gaussian.std[:, None, None, None]
    assert drawn.std().item() == pytest.approx(1.0, abs=0.1)
    correlation = torch.corrcoef(torch.stack([drawn.flatten(), latents.flatten()]))[0, 1]
    # 768 independent pairs: a standard deviation of 0.036.
    assert abs(correlation.item()) < 0.12


def test_every_row_needs_a_seed(generator_of: NewGenerator):
    with pytest.raises(UsageError, match="1 seeds for 2 rows"):
        _trajectory(generator_of("sd3"), seeds=[1])


def test_the_level_that_stands_in_for_one_is_the_next_below():
    assert largest_below_one(torch.tensor([1.0, 0.75, 0.5, 0.0])) == 0.75


class OfAnotherScale(GaussianGenerator):
    """A generator whose noise levels are not what the protocol says."""

    name = "own"

    def __init__(self, levels: Any) -> None:
        super().__init__()
        self.levels = levels

    def sigmas(self, denoising_steps: int, size: Any = None) -> torch.Tensor:
        return self.levels(denoising_steps)


@pytest.mark.parametrize(
    "levels",
    [
        lambda steps: torch.linspace(1000, 0, steps + 1),
        lambda steps: torch.linspace(0, 1, steps + 1),
        lambda steps: torch.linspace(1, 0, steps + 1)[:-1],
        lambda steps: torch.linspace(1, 0.1, steps + 1),
    ],
    ids=["timesteps", "rising", "as many as steps", "without the end"],
)
def test_noise_levels_that_do_not_lead_from_noise_to_a_picture_are_refused(levels: Any):
    with pytest.raises(UsageError, match="generator 'own' gives"):
        noise_levels(OfAnotherScale(levels))


@pytest.mark.parametrize(("name", "value"), [("denoising_steps", 0), ("denoising_steps", -1), ("batch_size", 0)])
def test_nothing_is_not_a_number_of_steps_or_pictures(generator_of: NewGenerator, name: str, value: int):
    with pytest.raises(UsageError, match="at least one"):
        generate(generator_of("sd3"), PROMPTS, SEEDS, SIZE, **{name: value})
