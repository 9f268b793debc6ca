import itertools
import math

import pytest
import torch
from torch.distributions import Normal

from rewarddance.core.errors import UsageError
from rewarddance.objectives.flow import noise_prediction, ode_step, x0_prediction
from rewarddance.objectives.sde import (
    SdeNoise,
    SdeSchedule,
    SdeStep,
    log_prob,
    sde_step,
    stochastic_places,
    transition_std,
)

SIGMA, LOWER = torch.tensor([0.9, 0.6, 0.3]), torch.tensor([0.8, 0.4, 0.05])
SIGMA_MAX = 0.95
SCHEDULES: tuple[SdeSchedule, ...] = ("flow", "dance", "cps")
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LATENTS, VELOCITY = _normal(3, 4, 2), _normal(3, 4, 2, seed=1)


def _step(noise: SdeNoise, sigma: torch.Tensor = SIGMA, lower: torch.Tensor = LOWER) -> SdeStep:
    return sde_step(LATENTS, VELOCITY, sigma, lower, noise, SIGMA_MAX)


@every_schedule
def test_without_noise_the_step_is_the_ode_step(schedule: SdeSchedule):
    step = _step(SdeNoise(schedule, 0.0))
    torch.testing.assert_close(step.mean, ode_step(LATENTS, VELOCITY, SIGMA, LOWER))
    assert step.std.tolist() == [0.0, 0.0, 0.0]


def test_the_flow_std_has_the_value_worked_out_by_hand():
    # a = 0.7, sigma 0.8 -> 0.6: 0.7 * sqrt(0.8 / 0.2) * sqrt(0.2) = 0.7 * 2 * 0.4472.
    std = transition_std(torch.tensor(0.8), torch.tensor(0.6), SdeNoise("flow", 0.7), SIGMA_MAX)
    assert std.item() == pytest.approx(0.7 * 2 * math.sqrt(0.2))


def test_the_flow_std_is_finite_at_pure_noise():
    # sigma 1 -> 0.9, with 0.95 in place of 1 below the line: 0.7 * sqrt(1 / 0.05 * 0.1).
    std = transition_std(torch.tensor(1.0), torch.tensor(0.9), SdeNoise("flow", 0.7), SIGMA_MAX)
    assert std.item() == pytest.approx(0.7 * math.sqrt(2.0), rel=1e-5)


def test_the_dance_std_is_the_level_times_the_root_of_the_step():
    # 0.3 * sqrt(0.8 - 0.55) = 0.15.
    std = transition_std(torch.tensor(0.8), torch.tensor(0.55), SdeNoise("dance", 0.3), SIGMA_MAX)
    assert std.item() == pytest.approx(0.15)


def test_the_cps_std_is_a_share_of_the_next_noise():
    # a = 1/3: sin(pi / 6) = 1/2 of 0.6.
    std = transition_std(torch.tensor(0.8), torch.tensor(0.6), SdeNoise("cps", 1 / 3), SIGMA_MAX)
    assert std.item() == pytest.approx(0.3)


@pytest.mark.parametrize("noise", [SdeNoise("flow", 0.7), SdeNoise("dance", 0.3)])
def test_the_mean_is_the_published_one(noise: SdeNoise):
    # Flow-GRPO: x (1 + g^2 / (2 sigma) dt) + v (1 + g^2 (1 - sigma) / (2 sigma)) dt with g = std / sqrt(-dt).
    sigma, lower = (one.double()[:, None, None] for one in (SIGMA, LOWER))
    dt = lower - sigma
    square = (noise.level**2 * sigma / (1 - sigma)) if noise.schedule == "flow" else noise.level**2
    expected = LATENTS * (1 + square / (2 * sigma) * dt) + VELOCITY * (1 + square * (1 - sigma) / (2 * sigma)) * dt
    torch.testing.assert_close(_step(noise).mean, expected, atol=1e-6, rtol=1e-6)


def test_flow_and_dance_are_one_where_their_noise_is_as_strong():
    # At sigma = 0.8, sqrt(sigma / (1 - sigma)) = 2: 0.3 of flow is 0.6 of dance.
    sigma, lower = torch.full((3,), 0.8), torch.full((3,), 0.7)
    flow, dance = _step(SdeNoise("flow", 0.3), sigma, lower), _step(SdeNoise("dance", 0.6), sigma, lower)
    torch.testing.assert_close(flow.std, dance.std)
    torch.testing.assert_close(flow.mean, dance.mean)


def test_cps_keeps_the_coefficients_of_clean_latents_and_noise():
    # (1 - lower) of x0, and together lower of noise: kept^2 + std^2 = lower^2.
    step = _step(SdeNoise("cps", 0.5))
    rest = step.mean - (1 - LOWER.double()[:, None, None]) * x0_prediction(LATENTS, VELOCITY, SIGMA)
    kept = (rest / noise_prediction(LATENTS, VELOCITY, SIGMA)).flatten(1)
    torch.testing.assert_close(kept, kept[:, :1].expand_as(kept))
    torch.testing.assert_close((kept[:, 0].square() + step.std.square()).sqrt(), LOWER.double())


def test_cps_ends_in_the_clean_latents_without_noise():
    step = _step(SdeNoise("cps", 0.8), lower=torch.zeros(3))
    torch.testing.assert_close(step.mean, x0_prediction(LATENTS, VELOCITY, SIGMA))
    assert step.std.tolist() == [0.0, 0.0, 0.0]


def test_flow_leaves_noise_in_a_step_to_zero():
    # 0.7 * sqrt(0.5 / 0.5) * sqrt(0.5): why the last step should be the ODE's.
    step = _step(SdeNoise("flow", 0.7), torch.full((3,), 0.5), torch.zeros(3))
    assert step.std.tolist() == pytest.approx([0.7 * math.sqrt(0.5)] * 3)


def test_one_level_serves_all_rows():
    together, apart = (_step(SdeNoise(), torch.tensor(0.6).expand(shape), torch.tensor(0.4)) for shape in ((), (3,)))
    assert torch.equal(together.mean, apart.mean)
    assert torch.equal(together.std, apart.std)


def test_the_gradient_of_the_velocity_reaches_the_mean_only():
    velocity = VELOCITY.clone().requires_grad_()
    step = sde_step(LATENTS, velocity, SIGMA, LOWER, SdeNoise(), SIGMA_MAX)
    assert step.mean.requires_grad
    assert not step.std.requires_grad


@every_schedule
def test_the_log_probability_is_the_normal_distributions(schedule: SdeSchedule):
    step = _step(SdeNoise(schedule, 0.5))
    sample = step.draw(_normal(3, 4, 2, seed=2))
    expected = Normal(step.mean, step.std[:, None, None]).log_prob(sample).flatten(1)
    torch.testing.assert_close(log_prob(sample, step, "sum"), expected.sum(1))
    torch.testing.assert_close(log_prob(sample, step, "mean"), expected.mean(1))


def test_a_draw_is_mean_plus_noise():
    step = SdeStep(torch.tensor([[1.0], [2.0]]), torch.tensor([0.5, 3.0]))
    assert step.draw(torch.tensor([[2.0], [-1.0]])).tolist() == [[2.0], [-1.0]]


def test_no_gradient_flows_through_the_sample():
    # Through its own draw, d(x' - mean) = 0: nothing would ever be learned.
    mean = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    step = SdeStep(mean, torch.ones(1, dtype=torch.float64))
    log_prob(step.draw(torch.tensor([[0.5, -1.0]], dtype=torch.float64)), step, "sum").sum().backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [[0.5, -1.0]]


def test_the_log_probability_of_a_step_without_noise_is_not_finite():
    step = _step(SdeNoise("dance", 0.0))
    assert not log_prob(step.mean, step).isfinite().any()


def _sampled(schedule: SdeSchedule, level: float, steps: int) -> torch.Tensor:
    """Samples of x0 ~ N(2, 0.5^2), from the velocity that is known in closed form for a Gaussian."""
    mean, std = 2.0, 0.5
    rng = torch.Generator().manual_seed(0)
    sigmas = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    latents = torch.randn(20_000, 1, generator=rng, dtype=torch.float64)
    for sigma, lower in itertools.pairwise(sigmas):
        variance = (1 - sigma) ** 2 * std**2 + sigma**2
        # Regression of noise - x0 on latents of mean (1 - sigma) m.
        slope = (sigma - (1 - sigma) * std**2) / variance
        velocity = -mean + slope * (latents - (1 - sigma) * mean)
        if lower == 0:
            return ode_step(latents, velocity, sigma, lower)
        step = sde_step(latents, velocity, sigma, lower, SdeNoise(schedule, level), float(sigmas[1]))
        latents = step.draw(torch.randn(latents.shape, generator=rng, dtype=torch.float64))
    raise AssertionError("the path does not end at 0")


@pytest.mark.parametrize(("schedule", "level"), [("flow", 0.7), ("dance", 0.3)])
def test_stochastic_steps_end_in_the_distribution_of_the_data(schedule: SdeSchedule, level: float):
    # 20,000 samples: the standard error is 0.5 / sqrt(20000) = 0.0035 for the mean, 0.0025 for the std.
    samples = _sampled(schedule, level, steps=400)
    assert samples.mean().item() == pytest.approx(2.0, abs=0.015)
    assert samples.std().item() == pytest.approx(0.5, abs=0.015)


def _shifted(steps: int, shift: float) -> torch.Tensor:
    """Noise levels as Stable Diffusion 3 goes through them: from 1 to a thousandth in equal steps, shifted, then 0."""
    even = torch.linspace(1.0, 0.001, steps, dtype=torch.float64)
    return torch.cat([shift * even / (1 + (shift - 1) * even), torch.zeros(1, dtype=torch.float64)])


def _final_std(sigmas: torch.Tensor, noise: SdeNoise, places: range) -> float:
    """Of samples of x0 ~ N(0, 0.1^2), some steps stochastic; the last one never is."""
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(20_000, 1, generator=rng, dtype=torch.float64)
    for place, (sigma, lower) in enumerate(itertools.pairwise(sigmas)):
        velocity = (sigma - (1 - sigma) * 0.01) / ((1 - sigma) ** 2 * 0.01 + sigma**2) * latents
        if place in places:
            step = sde_step(latents, velocity, sigma, lower, noise, float(sigmas[1]))
            latents = step.draw(torch.randn(latents.shape, generator=rng, dtype=torch.float64))
        else:
            latents = ode_step(latents, velocity, sigma, lower)
    return latents.std().item()


@pytest.mark.parametrize(("steps", "shift"), [(10, 3.0), (28, 3.0), (50, 3.0)])
@pytest.mark.parametrize("noise", [SdeNoise("flow", 0.7), SdeNoise("dance", 0.3)])
def test_steps_that_go_far_down_are_left_to_the_ode(steps: int, shift: float, noise: SdeNoise):
    sigmas = _shifted(steps, shift)
    places = stochastic_places(sigmas, noise)
    assert 0 < len(places) < steps - 1
    for place in places:
        std = transition_std(sigmas[place], sigmas[place + 1], noise, float(sigmas[1]))
        left = torch.hypot(sigmas[place + 1] - std**2 / (2 * sigmas[place]), std)
        assert left <= 1.5 * sigmas[place + 1]
    of_all, of_these, of_none = (_final_std(sigmas, noise, one) for one in (range(steps - 1), places, range(0)))
    assert of_none < of_these < of_all
    if steps == 10:
        # Of pictures with a spread of 0.1, what was left used to be twice as much again, all of it noise.
        assert of_these < 1.3 * of_none
        assert of_all > 5 * of_none


def test_even_steps_and_those_that_keep_the_level_may_all_be_stochastic():
    even = torch.linspace(1.0, 0.0, 9, dtype=torch.float64)
    assert stochastic_places(even, SdeNoise("flow", 0.7)) == range(7)
    assert stochastic_places(_shifted(28, 3.0), SdeNoise("cps", 0.8)) == range(27)
    assert stochastic_places(torch.tensor([1.0, 0.0]), SdeNoise()) == range(0)


@pytest.mark.parametrize(("schedule", "level"), [("cps", 1.5), ("flow", -0.1), ("dance", float("inf"))])
def test_a_level_that_is_no_strength_is_refused(schedule, level):
    with pytest.raises(UsageError, match=f"level of {schedule} noise"):
        SdeNoise(schedule, level)


def test_a_plain_number_is_a_noise_level():
    latents, velocity = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 4)
    for schedule in ("flow", "dance", "cps"):
        plain = sde_step(latents, velocity, 0.5, 0.25, SdeNoise(schedule, 0.5), 0.9)
        step = sde_step(latents, velocity, torch.tensor(0.5), torch.tensor(0.25), SdeNoise(schedule, 0.5), 0.9)
        assert torch.equal(plain.mean, step.mean) and torch.equal(plain.std, step.std)
