import pytest
import torch

from rewarddance.objectives.flow import x0_prediction
from rewarddance.training.alignment import align
from rewarddance.training.alignment_start import METHODS
from rewarddance.training.policy_optimizer import PolicyOptimizer
from rewarddance.training.refl import Refl
from rewarddance.training.reward_signal import RewardSignal
from tests.training.stand_in_generator import (
    AT_ONCE,
    StandInGenerator,
    align_config,
    bench_of,
    pixel_reward,
    redness,
    reward_of,
    rows_of,
)


def first_part(bench):
    (parts,) = Refl(bench, bench.config.method).updates(0)
    return next(iter(parts))


def test_it_raises_the_reward(tmp_path):
    config = align_config(tmp_path, optimizer_steps=25, evaluate_every=25, samples_every=25, save_every=25)
    align(config, StandInGenerator(), reward_of())
    before, after = rows_of(tmp_path / "run/evaluations.jsonl")
    assert after["proxy"] > before["proxy"] + 0.5


def test_the_gradient_reaches_what_learns_and_nothing_else(tmp_path):
    bench = bench_of(align_config(tmp_path))
    first_part(bench).loss.backward()
    generator = bench.policy.generator
    everything = [*generator.module.named_parameters(), *generator.frozen_modules["words"].named_parameters()]
    reached = {name for name, parameter in everything if parameter.grad is not None}
    assert reached
    assert reached <= bench.policy.parameters.keys()
    assert all("lora_" in name for name in reached)


def test_the_picture_that_is_judged_is_the_prediction_at_the_graded_step(tmp_path):
    config = align_config(tmp_path, method={"name": "refl", "window": [0.5, 0.75]})
    seen = []

    def watch(pixels, prompts):
        seen.append(pixels.detach())
        return redness(pixels, prompts)

    bench = bench_of(config, reward_of(watch))
    first_part(bench)
    # Step 2 of 4 is the only one in [0.5, 0.75): its noise level is 0.5.
    (draw,) = bench.draws.draws(0, 1)
    conditions = bench.conditions(draw.prompts)
    latents = bench.denoised(bench.noise(draw.seeds), conditions, stop=2)
    with torch.no_grad():
        velocity = bench.policy.velocity(latents, torch.tensor(0.5), conditions, None)
    expected = bench.pictures(x0_prediction(latents, velocity, torch.tensor(0.5)))
    assert torch.equal(seen[0], expected)


def test_the_graded_step_wanders_within_its_window(tmp_path):
    config = align_config(tmp_path, method={"name": "refl", "window": [0.5, 1.0]}, gradient_accumulation=20)
    bench = bench_of(config)
    (parts,) = Refl(bench, config.method).updates(0)
    assert {part.figures["graded_sigma"] for part in parts} == {0.5, 0.25}


def test_pictures_above_the_ceiling_give_no_gradient(tmp_path):
    config = align_config(tmp_path, method={"name": "refl", "ceiling": -50.0})
    part = first_part(bench_of(config))
    part.loss.backward()
    assert part.loss.item() == 0.0


def test_with_several_rewards_the_ceiling_is_still_in_log_odds(tmp_path):
    # The mean of both is about 10, whose normalised sum is about 0.
    losses = []
    for ceiling in (5.0, 15.0):
        config = align_config(tmp_path, method={"name": "refl", "ceiling": ceiling})
        rewards = [pixel_reward(name, lambda *seen: 10 + redness(*seen)) for name in ("one", "two")]
        losses.append(first_part(bench_of(config, RewardSignal(rewards, patience=AT_ONCE))).loss.item())
    assert losses[0] == 0.0
    assert losses[1] == pytest.approx(5.0, abs=2.0)


@pytest.mark.parametrize("method", ["refl", "draft"])
def test_micro_batches_are_augmented_differently(tmp_path, method):
    seen = []

    def watch(pixels, prompts):
        seen.append(pixels.detach())
        return redness(pixels, prompts)

    class Still(StandInGenerator):
        def decode(self, latents, size=None):
            return 0.0 * latents + 0.5

    config = align_config(tmp_path, method, gradient_accumulation=2, augmentation={"noise": 0.1})
    bench = bench_of(config, reward_of(watch), Still())
    (parts,) = METHODS[type(config.method)](bench, config.method).updates(0)
    list(parts)
    assert not torch.equal(*seen)


def test_the_velocity_weight_keeps_the_policy_nearer_to_its_reference(tmp_path):
    distances = []
    for weight in (0.0, 100.0):
        folder = tmp_path / str(weight)
        regulariser = {"velocity_weight": weight}
        config = align_config(folder, optimizer_steps=10, evaluate_every=10, samples_every=10, regulariser=regulariser)
        align(config, StandInGenerator(), reward_of())
        distances.append(rows_of(folder / "run/evaluations.jsonl")[-1]["kl"])
    assert distances[1] < 0.5 * distances[0]


@pytest.mark.parametrize("regulariser", [{"velocity_weight": 1.0}, {"pretraining_weight": 1.0}])
def test_a_regulariser_adds_a_term_of_its_own(tmp_path, regulariser):
    plain = align(align_config(tmp_path / "a", optimizer_steps=2), StandInGenerator(), reward_of())
    held = align(
        align_config(tmp_path / "b", optimizer_steps=2, regulariser=regulariser), StandInGenerator(), reward_of()
    )
    losses = [rows_of(result.folder / "metrics.jsonl")[-1]["loss"] for result in (plain, held)]
    assert losses[1] > losses[0]


def test_accumulated_batches_weigh_as_much_as_one_large_batch(tmp_path):
    norms = []
    for number, sizes in enumerate([{"batch_size": 8}, {"batch_size": 4, "gradient_accumulation": 2}]):
        config = align_config(tmp_path / str(number), method={"name": "refl", "window": [0.75, 1.0]}, **sizes)
        bench = bench_of(config)
        (parts,) = Refl(bench, config.method).updates(0)
        norms.append(PolicyOptimizer(bench.policy, config.optimizer, 1).step(0, parts).gradient_norm)
    # The same eight prompts and seeds, and one step in the window.
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
