import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rewarddance.objectives.kl import path_kl, step_kl, velocity_distance, velocity_kl
from rewarddance.objectives.sde import SdeNoise, SdeSchedule, SdeStep, log_prob, sde_step

SIGMA, LOWER = torch.tensor([0.9, 0.6, 0.3]), torch.tensor([0.8, 0.4, 0.05])
SIGMA_MAX = 0.95
SCHEDULES: tuple[SdeSchedule, ...] = ("flow", "dance", "cps")
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LATENTS, VELOCITY, REFERENCE = _normal(3, 4, 2), _normal(3, 4, 2, seed=1), _normal(3, 4, 2, seed=2)


def _steps(noise: SdeNoise) -> tuple[SdeStep, SdeStep]:
    policy, reference = (
        sde_step(LATENTS, velocity, SIGMA, LOWER, noise, SIGMA_MAX) for velocity in (VELOCITY, REFERENCE)
    )
    return policy, reference


def test_the_divergence_has_the_value_worked_out_by_hand():
    # Differences 1 and 2, std 0.5: (1 + 4) / (2 * 0.25) = 10, and 5 a latent.
    means = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5])
    assert step_kl(*means).item() == pytest.approx(10.0)
    assert step_kl(*means, reduce="mean").item() == pytest.approx(5.0)


@every_schedule
def test_equal_policies_are_not_apart(schedule: SdeSchedule):
    step, _ = _steps(SdeNoise(schedule, 0.5))
    assert step_kl(step.mean, step.mean, step.std).tolist() == [0.0, 0.0, 0.0]
    same = velocity_kl(VELOCITY, VELOCITY, SIGMA, LOWER, SdeNoise(schedule, 0.5), SIGMA_MAX)
    assert same.tolist() == [0.0, 0.0, 0.0]


@every_schedule
def test_the_divergence_is_the_normal_distributions(schedule: SdeSchedule):
    step, reference = _steps(SdeNoise(schedule, 0.5))
    std = step.std[:, None, None]
    expected = kl_divergence(Normal(step.mean, std), Normal(reference.mean, std)).flatten(1).sum(1)
    torch.testing.assert_close(step_kl(step.mean, reference.mean, step.std), expected)


@every_schedule
def test_velocities_give_the_divergence_of_their_steps(schedule: SdeSchedule):
    noise = SdeNoise(schedule, 0.5)
    step, reference = _steps(noise)
    closed = velocity_kl(VELOCITY, REFERENCE, SIGMA, LOWER, noise, SIGMA_MAX)
    torch.testing.assert_close(closed, step_kl(step.mean, reference.mean, step.std), rtol=1e-5, atol=1e-8)


def test_the_closed_form_is_the_published_one():
    # Delta / 2 * (g (1 - sigma) / (2 sigma) + 1 / g)^2 * |dv|^2 = 0.1 / 2 * (0.3 * 0.5 / 1 + 1 / 0.3)^2 * 4.
    given = velocity_kl(
        torch.tensor([[2.0]]),
        torch.zeros(1, 1),
        torch.tensor(0.5),
        torch.tensor(0.4),
        SdeNoise("dance", 0.3),
        SIGMA_MAX,
    )
    assert given.item() == pytest.approx(0.05 * (0.15 + 1 / 0.3) ** 2 * 4, rel=1e-5)


@every_schedule
def test_the_divergence_is_the_mean_log_ratio_of_many_draws(schedule: SdeSchedule):
    policy, reference = _steps(SdeNoise(schedule, 0.5))
    rows = [torch.zeros(20_000, dtype=torch.long) + row for row in range(3)]
    for row, places in enumerate(rows):
        many, other = (SdeStep(step.mean[places], step.std[places]) for step in (policy, reference))
        sample = many.draw(_normal(20_000, 4, 2, seed=3))
        log_ratio = log_prob(sample, many, "sum") - log_prob(sample, other, "sum")
        # The log-ratio is normal with variance 2 KL.
        divergence = step_kl(policy.mean, reference.mean, policy.std)[row].item()
        assert log_ratio.mean().item() == pytest.approx(divergence, abs=4 * (2 * divergence / 20_000) ** 0.5)


def test_a_smaller_step_has_a_smaller_divergence():
    # Linear in Delta: half the step, half the divergence. Without the step size in std it would be a quarter.
    def of(lower: float) -> float:
        sigmas = torch.tensor(0.5), torch.tensor(lower)
        return velocity_kl(torch.ones(1, 1), torch.zeros(1, 1), *sigmas, SdeNoise("flow", 0.7), SIGMA_MAX).item()

    assert of(0.45) == pytest.approx(of(0.4) / 2, rel=1e-4)


def test_the_divergence_of_a_path_is_the_sum_over_its_steps():
    assert path_kl(torch.tensor([[1.0, 0.5], [2.0, 0.25]])).tolist() == [3.0, 0.75]


def test_the_distance_of_velocities_is_a_mean_square():
    # Errors 1 and 3: (1 + 9) / 2.
    assert velocity_distance(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)).tolist() == [5.0]


def test_the_reference_policy_gets_no_gradient():
    velocity, reference = VELOCITY.clone().requires_grad_(), REFERENCE.clone().requires_grad_()
    loss = velocity_kl(velocity, reference, SIGMA, LOWER, SdeNoise(), SIGMA_MAX) + velocity_distance(
        velocity, reference
    )
    loss.sum().backward()
    assert reference.grad is None
    assert velocity.grad is not None


def test_the_mean_of_the_reference_policy_gets_no_gradient():
    mean, reference = (torch.ones(1, 2, requires_grad=True) for _ in range(2))
    step_kl(mean, reference, torch.ones(1)).sum().backward()
    assert reference.grad is None
