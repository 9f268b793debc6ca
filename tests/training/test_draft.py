import pytest
import torch

from rewarddance.training.alignment import align
from rewarddance.training.draft import Draft
from rewarddance.training.refl import Refl
from tests.training.stand_in_generator import StandInGenerator, align_config, bench_of, reward_of, rows_of


def gradients(bench, method):
    (parts,) = method.updates(0)
    next(iter(parts)).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in bench.policy.parameters.items()}


@pytest.mark.parametrize("detach_inputs", [False, True])
def test_it_raises_the_reward(tmp_path, detach_inputs):
    method = {"name": "draft", "last_steps": 2, "detach_inputs": detach_inputs}
    settings = {"optimizer_steps": 25, "evaluate_every": 25, "samples_every": 25, "save_every": 25}
    config = align_config(tmp_path, method=method, **settings)
    align(config, StandInGenerator(), reward_of())
    before, after = rows_of(tmp_path / "run/evaluations.jsonl")
    assert after["proxy"] > before["proxy"] + 0.5


def test_with_one_step_it_is_refl_at_the_last_step(tmp_path):
    draft_config = align_config(tmp_path / "a", method={"name": "draft", "last_steps": 1})
    refl_config = align_config(tmp_path / "b", method={"name": "refl", "window": [0.75, 1.0]})
    draft_bench, refl_bench = bench_of(draft_config), bench_of(refl_config)
    through_sampler = gradients(draft_bench, Draft(draft_bench, draft_config.method))
    through_prediction = gradients(refl_bench, Refl(refl_bench, refl_config.method))
    for name, gradient in through_sampler.items():
        torch.testing.assert_close(gradient, through_prediction[name])


def test_cutting_the_inputs_leaves_the_picture_and_changes_the_gradient(tmp_path):
    losses, found = [], []
    for number, detach in enumerate((False, True)):
        method = {"name": "draft", "last_steps": 3, "detach_inputs": detach}
        config = align_config(tmp_path / str(number), method=method)
        bench = bench_of(config)
        (parts,) = Draft(bench, config.method).updates(0)
        part = next(iter(parts))
        part.loss.backward()
        losses.append(part.loss.item())
        found.append(torch.cat([parameter.grad.flatten() for parameter in bench.policy.parameters.values()]))
    assert losses[0] == losses[1]
    assert not torch.allclose(found[0], found[1], rtol=1e-3)


def test_cut_inputs_leave_the_sum_of_each_steps_own_gradient(tmp_path):
    # x0 = x + sum of (sigma' - sigma) v(x_k): with a linear reward the gradient is the sum of those of the steps alone.
    config = align_config(tmp_path, method={"name": "draft", "last_steps": 2, "detach_inputs": True}, batch_size=2)
    bench = bench_of(config)
    # Without the clamp, which stops the gradient of pixels that are out of range.
    bench.policy.generator.decode = lambda latents, size: 0.25 * latents + 0.5
    found = gradients(bench, Draft(bench, config.method))
    (draw,) = bench.draws.draws(0, 1)
    conditions = bench.conditions(draw.prompts)
    last = bench.denoised(bench.noise(draw.seeds), conditions, stop=3)
    before = bench.denoised(bench.noise(draw.seeds), conditions, stop=2)
    loss = torch.tensor(0.0)
    for latents, sigma in ((before, torch.tensor(0.5)), (last, torch.tensor(0.25))):
        velocity = bench.policy.velocity(latents, sigma, conditions, None)
        # A step moves latents by -0.25 v, pixels are 0.25 * latents + 0.5, and the loss is minus the redness.
        moved = -0.25 * 0.25 * velocity
        loss = loss - 8 * (moved[:, 0] - moved[:, 1:].mean(1)).mean()
    wanted = torch.autograd.grad(loss, list(bench.policy.parameters.values()))
    for gradient, own in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(gradient, own, rtol=1e-4, atol=1e-7)


def test_more_steps_with_gradient_than_there_are_is_refused(tmp_path):
    config = align_config(tmp_path, method={"name": "draft", "last_steps": 9})
    with pytest.raises(ValueError, match="only 4 denoising steps"):
        align(config, StandInGenerator(), reward_of())
