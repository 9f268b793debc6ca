import pytest
import torch

from rewarddance.objectives.flow import (
    add_noise,
    flow_matching_loss,
    noise_prediction,
    ode_step,
    renoise,
    x0_prediction,
)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _line(sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    x0, noise = _normal(3, 4, 2, 2), _normal(3, 4, 2, 2, seed=1)
    return x0, noise, add_noise(x0, noise, sigma), noise - x0


def test_a_step_has_the_value_worked_out_by_hand():
    # x = 2, v = 3, sigma 0.8 -> 0.6: 2 - 0.2 * 3 = 1.4.
    stepped = ode_step(torch.tensor([[2.0]]), torch.tensor([[3.0]]), torch.tensor([0.8]), torch.tensor([0.6]))
    assert stepped.item() == pytest.approx(1.4)


def test_a_step_along_the_true_velocity_stays_on_the_line():
    sigma, lower = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.7, 0.4, 0.0])
    x0, noise, latents, velocity = _line(sigma)
    torch.testing.assert_close(ode_step(latents, velocity, sigma, lower), add_noise(x0, noise, lower))


def test_one_level_serves_all_rows():
    latents, velocity = _normal(3, 4), _normal(3, 4, seed=1)
    one = ode_step(latents, velocity, torch.tensor(0.8), torch.tensor(0.5))
    torch.testing.assert_close(one, ode_step(latents, velocity, torch.full((3,), 0.8), torch.full((3,), 0.5)))


def test_x0_is_the_analytic_one_at_every_noise_level():
    sigma = torch.tensor([1.0, 0.6, 0.0])
    x0, _, latents, velocity = _line(sigma)
    torch.testing.assert_close(x0_prediction(latents, velocity, sigma), x0)


def test_x0_is_a_step_to_sigma_zero():
    sigma = torch.tensor([0.9, 0.5, 0.1])
    latents, velocity = _normal(3, 4), _normal(3, 4, seed=1)
    stepped = ode_step(latents, velocity, sigma, torch.zeros(3))
    torch.testing.assert_close(x0_prediction(latents, velocity, sigma), stepped)


def test_noise_is_the_one_that_was_mixed_in():
    sigma = torch.tensor([1.0, 0.6, 0.0])
    _, noise, latents, velocity = _line(sigma)
    torch.testing.assert_close(noise_prediction(latents, velocity, sigma), noise)


def test_the_ends_of_the_line_are_data_and_noise():
    x0, noise = _normal(2, 3), _normal(2, 3, seed=1)
    mixed = add_noise(x0, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(mixed, torch.stack([x0[0], noise[1]]))


def test_the_loss_of_the_true_velocity_is_zero():
    x0, noise, _, velocity = _line(torch.full((3,), 0.3))
    assert flow_matching_loss(velocity, x0, noise).tolist() == [0.0, 0.0, 0.0]


def test_the_loss_is_the_mean_square_worked_out_by_hand():
    # Target 1 - 2 = -1 and 3 - 0 = 3; v = 0 and 1: errors 1 and -2: (1 + 4) / 2.
    loss = flow_matching_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
    assert loss.tolist() == [2.5]


def test_half_precision_latents_step_in_float32():
    # At 8, bf16 numbers are 0.0625 apart: a step of 0.01 * 1 would be lost.
    latents = torch.full((1, 1), 8.0, dtype=torch.bfloat16)
    stepped = ode_step(latents, torch.ones(1, 1, dtype=torch.bfloat16), torch.tensor(0.51), torch.tensor(0.5))
    assert stepped.dtype is torch.float32
    assert stepped.item() == pytest.approx(7.99)


def test_double_precision_levels_do_not_change_the_precision_of_latents():
    sigma = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert x0_prediction(_normal(2, 3), _normal(2, 3), sigma).dtype is torch.float32


def test_fresh_noise_from_clean_latents_is_added_as_always():
    x0, noise = _normal(3, 4), _normal(3, 4, seed=1)
    torch.testing.assert_close(
        renoise(x0, noise, torch.tensor(0.0), torch.tensor(0.7)), add_noise(x0, noise, torch.tensor(0.7))
    )


def test_going_back_up_to_pure_noise_keeps_nothing():
    latents, noise = _normal(3, 4), _normal(3, 4, seed=1)
    assert torch.equal(renoise(latents, noise, torch.tensor(0.4), torch.tensor(1.0)), noise)


def test_going_nowhere_changes_nothing():
    latents, noise = _normal(3, 4), _normal(3, 4, seed=1)
    torch.testing.assert_close(renoise(latents, noise, torch.tensor(0.4), torch.tensor(0.4)), latents)


def test_going_back_up_has_the_value_worked_out_by_hand():
    # From 0.2 to 0.6: a = 0.4 / 0.8 = 0.5; 0.5 * 2 + sqrt(0.36 - 0.01) * 1 = 1.5916.
    latents, noise = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    assert renoise(latents, noise, torch.tensor(0.2), torch.tensor(0.6)).item() == pytest.approx(1.591608)


def test_latents_that_went_back_up_are_distributed_as_if_they_had_never_been_lower():
    x0 = torch.full((200_000,), 3.0)
    lower = add_noise(x0, _normal(200_000), torch.tensor(0.3))
    back = renoise(lower, _normal(200_000, seed=1), torch.tensor(0.3), torch.tensor(0.8))
    # (1 - 0.8) * 3 = 0.6, with noise of 0.8.
    assert back.mean().item() == pytest.approx(0.6, abs=0.01)
    assert back.std().item() == pytest.approx(0.8, abs=0.01)


def test_the_line_of_half_precision_latents_is_computed_in_full_precision():
    # In bfloat16, 1 + 2^-9 - 0 is kept as 1: the noise less x0 must not be rounded before it is compared.
    noise, x0 = torch.tensor([[1.0]], dtype=torch.bfloat16), torch.tensor([[-(2.0**-9)]], dtype=torch.bfloat16)
    loss = flow_matching_loss(torch.zeros(1, 1, dtype=torch.bfloat16), x0, noise)
    assert loss.item() == pytest.approx((1 + 2**-9) ** 2, rel=1e-6)


def test_noise_levels_of_half_precision_are_subtracted_in_full_precision():
    sigma = torch.tensor([2.0**-9], dtype=torch.bfloat16)
    pointed_to = noise_prediction(torch.zeros(1, 1), torch.ones(1, 1), sigma)
    assert pointed_to.item() == pytest.approx(1 - 2**-9, rel=1e-6)


def test_a_plain_number_is_a_noise_level():
    latents, velocity = torch.ones(2, 3, 4), torch.full((2, 3, 4), 0.5)
    assert torch.equal(x0_prediction(latents, velocity, 0.5), x0_prediction(latents, velocity, torch.tensor(0.5)))
    assert ode_step(latents, velocity, 0.75, 0.5)[0, 0, 0].item() == 0.875  # 1 - 0.25 * 0.5
