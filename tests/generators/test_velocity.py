from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from rewarddance.core.errors import UsageError
from rewarddance.generators.loading import load_generator
from tests.generators.conftest import PROMPTS, SEEDS, SIZE, FolderOf, NewGenerator
from tests.tiny_generators import GENERATOR_FAMILIES, GeneratorFamily

FAMILIES = GENERATOR_FAMILIES
GUIDANCE = 3.0


def _question(generator: Any) -> tuple[Tensor, Tensor, Any]:
    """Latents of two rows at different noise levels, those levels, and the conditions of two prompts."""
    return generator.initial_noise(SEEDS, SIZE), torch.tensor([0.9, 0.4]), generator.encode(PROMPTS, SIZE)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_in_the_latents_agrees_with_a_finite_difference(
    generator_of: NewGenerator, family: GeneratorFamily
):
    generator = generator_of(family)
    latents, sigma, conditions = _question(generator)
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(latents.shape, generator=rng)

    def value(at: Tensor) -> Tensor:
        return (generator.velocity(at, sigma, conditions, GUIDANCE).double() * weights).sum()

    leaf = latents.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    # Uphill, so that the slope is the gradient's length, far above the rounding of float32.
    direction = gradient / gradient.norm()
    with torch.no_grad():
        slope = (value(latents + 1e-2 * direction) - value(latents - 1e-2 * direction)) / 2e-2
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_tuning_reaches_every_weight_that_can_matter(new_generator: NewGenerator, family: GeneratorFamily):
    generator = new_generator(family)
    generator.module.requires_grad_(True)
    generator.velocity(*_question(generator), GUIDANCE).square().mean().backward()
    # The last block's text stream leads nowhere in these architectures.
    silent = {name for name, value in generator.module.named_parameters() if value.grad is None or not value.grad.any()}
    assert all("transformer_blocks.1." in name or "single" in name for name in silent), silent
    frozen = [value for module in generator.frozen_modules.values() for value in module.parameters()]
    assert not any(value.requires_grad for value in frozen)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_alone_get_the_gradient(new_generator: NewGenerator, family: GeneratorFamily):
    generator = new_generator(family)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"]), generator.module)
    generator.velocity(*_question(generator), GUIDANCE).square().mean().backward()
    with_gradient = {name for name, value in generator.module.named_parameters() if value.grad is not None}
    assert with_gradient
    assert all("lora_" in name for name in with_gradient)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_no_gradient(new_generator: NewGenerator, family: GeneratorFamily):
    generator = new_generator(family)
    generator.module.requires_grad_(True)
    gradients = []
    for is_on in (False, True):
        generator.gradient_checkpointing(is_on)
        generator.module.zero_grad()
        generator.velocity(*_question(generator), GUIDANCE).square().mean().backward()
        gradients.append([value.grad for value in generator.module.parameters() if value.grad is not None])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))
    assert generator.module.is_gradient_checkpointing


@pytest.mark.parametrize("family", FAMILIES)
def test_a_half_precision_network_answers_in_full_precision(
    folder_of: FolderOf, generator_of: NewGenerator, family: GeneratorFamily
):
    half = load_generator(folder_of(family), device="cpu", dtype="bfloat16")
    latents, sigma, conditions = _question(half)
    answer = half.velocity(latents, sigma, conditions, GUIDANCE)
    expected = generator_of(family).velocity(*_question(generator_of(family)), GUIDANCE)
    assert latents.dtype == answer.dtype == torch.float32
    # Loose: FLUX's networks embed a thousand times the guidance, which bfloat16 rounds to a multiple of 16.
    assert torch.cosine_similarity(answer.flatten(), expected.flatten(), dim=0) > 0.95


def test_full_precision_adapters_do_not_change_what_a_half_precision_network_computes_in(folder_of: FolderOf):
    generator: Any = load_generator(folder_of("sd3"), device="cpu", dtype="bfloat16")
    before = generator.velocity(*_question(generator), GUIDANCE)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["to_q"]), generator.module)
    for name, value in generator.module.named_parameters():
        if "lora_" in name:
            value.data = value.data.float()
    # A fresh adapter adds nothing.
    assert torch.equal(generator.velocity(*_question(generator), GUIDANCE), before)


@pytest.mark.parametrize("family", ["sd3", "qwen_image"])
def test_guidance_without_a_blank_prompt_is_refused(generator_of: NewGenerator, family: GeneratorFamily):
    latents, sigma, conditions = _question(generator_of(family))
    lone = type(conditions)(conditions.positive, None, conditions.size)
    with pytest.raises(UsageError, match=r"guidance 3\.0 needs conditions of a blank prompt"):
        generator_of(family).velocity(latents, sigma, lone, GUIDANCE)
    # Guidance of 1 asks only the prompt.
    generator_of(family).velocity(latents, sigma, lone, 1.0)


def test_a_distilled_network_needs_no_blank_prompt(generator_of: NewGenerator):
    assert generator_of("flux").encode(PROMPTS, SIZE).negative is None


@pytest.mark.parametrize("size", [(36, 32), (0, 32)])
def test_a_size_between_patches_is_refused(generator_of: NewGenerator, size: tuple[int, int]):
    wrong = type(SIZE)(*size)
    with pytest.raises(UsageError, match="use multiples of 8"):
        generator_of("flux").encode(PROMPTS, wrong)
    with pytest.raises(UsageError, match="use multiples of 8"):
        generator_of("flux").initial_noise(SEEDS, wrong)


def test_a_size_beyond_the_table_of_positions_is_refused(generator_of: NewGenerator):
    # 16 patches of 2 latents of 4 pixels
    with pytest.raises(UsageError, match="the largest is 128"):
        generator_of("sd3").encode(PROMPTS, type(SIZE)(136, 32))


def test_no_prompts_are_refused(generator_of: NewGenerator):
    with pytest.raises(UsageError, match="no prompt"):
        generator_of("sd3").encode([], SIZE)
