from pathlib import Path

import pytest
import torch

from rewarddance.config.alignment import GeneratorLoraConfig
from rewarddance.generators.loading import load_generator
from rewarddance.generators.sampling import generate
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.training.policy import Policy
from tests.tiny_generators import tiny_generator_folder

PROMPTS = ["a red square", "three yellow stars"]
FIRST = GeneratorLoraConfig(rank=4, alpha=8.0, target_modules=("to_q", "to_k"))
SECOND = GeneratorLoraConfig(rank=2, alpha=4.0, target_modules=("to_k", "to_out.0"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator_folder("sd3", tmp_path_factory.mktemp("base") / "sd3")


def tuned(base: Path, dtype: str, lora: GeneratorLoraConfig | None, adapter: Path | None = None) -> Policy:
    """A policy after some training: every adapter adds something small, as after few updates."""
    policy = Policy(load_generator(base, "cpu", dtype, adapter=adapter), lora, dtype, seed=3)
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in policy.parameters.values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))
    return policy


def written(policy: Policy, folder: Path) -> Path:
    folder.mkdir()
    policy.save_adapters(folder)
    return folder


@torch.no_grad()
def velocity_of(policy: Policy) -> torch.Tensor:
    generator = policy.generator
    with policy.precision():
        conditions = generator.encode(PROMPTS)
    return policy.velocity(generator.initial_noise([1, 2]), torch.tensor(0.6), conditions, 3.0)


@torch.no_grad()
def plain_velocity(generator) -> torch.Tensor:
    conditions, latents = generator.encode(PROMPTS), generator.initial_noise([1, 2])
    return generator.velocity(latents, torch.full((2,), 0.6), conditions, 3.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_generator_with_the_adapter_is_the_tuned_policy(base, tmp_path, dtype):
    policy = tuned(base, dtype, FIRST)
    folder = written(policy, tmp_path / "adapter")
    loaded = load_generator(base, "cpu", dtype, adapter=folder)
    assert torch.equal(plain_velocity(loaded), velocity_of(policy))
    with policy.precision():
        pictures = generate(policy.generator, PROMPTS, [1, 2], None, 3, 3.0)
    assert torch.equal(generate(loaded, PROMPTS, [1, 2], None, 3, 3.0), pictures)
    assert not torch.equal(plain_velocity(load_generator(base, "cpu", dtype)), plain_velocity(loaded))
    assert not any(value.requires_grad for value in loaded.module.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_second_stage_begins_with_the_policy_of_the_first_and_takes_it_for_the_reference(base, tmp_path, dtype):
    first = tuned(base, dtype, FIRST)
    folder = written(first, tmp_path / "first")
    second = Policy(load_generator(base, "cpu", dtype, adapter=folder), SECOND, dtype, seed=5)
    assert torch.equal(velocity_of(second), velocity_of(first))
    assert all(".default." in name for name in second.parameters)
    second = tuned(base, dtype, SECOND, folder)
    with second.reference():
        assert torch.equal(velocity_of(second), velocity_of(first))
    assert not torch.equal(velocity_of(second), velocity_of(first))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_adapter_of_a_second_stage_holds_both(base, tmp_path, dtype):
    """Some layers belong to the first stage alone, some to the second, some to both; three are none too many."""
    first = written(tuned(base, dtype, FIRST), tmp_path / "first")
    second = written(tuned(base, dtype, SECOND, first), tmp_path / "second")
    policy = tuned(base, dtype, FIRST, second)
    third = written(policy, tmp_path / "third")
    assert torch.equal(plain_velocity(load_generator(base, "cpu", dtype, adapter=third)), velocity_of(policy))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_drawn_generator_takes_adapters_too(tmp_path, dtype):
    folder = lab_generator()
    policy = tuned(folder, dtype, FIRST)
    loaded = load_generator(folder, "cpu", dtype, adapter=written(policy, tmp_path / "adapter"))
    conditions, latents = loaded.encode(["a red circle"]), loaded.initial_noise([1])
    with torch.no_grad():
        here = policy.velocity(latents, torch.tensor(0.6), conditions, 3.0)
        assert torch.equal(loaded.velocity(latents, torch.tensor([0.6]), conditions, 3.0), here)


def test_diffusers_reads_the_adapter_of_a_second_stage(base, tmp_path):
    first = written(tuned(base, "float32", FIRST), tmp_path / "first")
    policy = tuned(base, "float32", SECOND, first)
    second = written(policy, tmp_path / "second")
    plain = load_generator(base, "cpu", "float32")
    plain.module.load_lora_adapter(str(second), prefix="transformer", use_safetensors=True)
    torch.testing.assert_close(plain_velocity(plain), velocity_of(policy), rtol=0.0, atol=1e-5)


def test_a_second_stage_may_train_every_weight_beside_the_adapter(base, tmp_path):
    first = tuned(base, "float32", FIRST)
    folder = written(first, tmp_path / "first")
    whole = Policy(load_generator(base, "cpu", "float32", adapter=folder), None, "float32", seed=3)
    assert torch.equal(velocity_of(whole), velocity_of(first))
    assert not any("lora_" in name for name in whole.parameters)
    whole = tuned(base, "float32", None, folder)
    whole.generator.save(tmp_path / "saved")
    again = load_generator(tmp_path / "saved", "cpu", "float32")
    torch.testing.assert_close(plain_velocity(again), velocity_of(whole), rtol=0.0, atol=1e-5)
