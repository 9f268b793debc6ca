import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

from rewarddance.core.errors import UsageError
from rewarddance.generators.protocol import Generator, ImageSize
from rewarddance.generators.sampling import generate, sample
from tests.generators.conftest import PROMPTS, SEEDS, SIZE, NewGenerator, rngs
from tests.tiny_generators import GeneratorFamily

PipelineOf = Callable[[GeneratorFamily], Any]

STEPS = 4
FAMILIES: list[GeneratorFamily] = ["sd3", "flux", "flux_schnell", "qwen_image"]
# Family, our guidance, and what says the same to the pipeline.
GUIDED: list[tuple[GeneratorFamily, float, dict[str, Any]]] = [
    ("sd3", 1.0, {"guidance_scale": 1.0}),
    ("sd3", 5.0, {"guidance_scale": 5.0}),
    ("flux", 1.0, {"guidance_scale": 1.0}),
    ("flux", 4.5, {"guidance_scale": 4.5}),
    ("flux_schnell", 1.0, {}),
    ("flux_schnell", 3.0, {"true_cfg_scale": 3.0, "negative_prompt": ["", ""]}),
    ("qwen_image", 1.0, {"true_cfg_scale": 1.0}),
    ("qwen_image", 4.0, {"true_cfg_scale": 4.0, "negative_prompt": [" ", " "]}),
]


def _pipeline_pictures(pipeline: Any, **options: Any) -> torch.Tensor:
    settings = {"height": SIZE.height, "width": SIZE.width, "num_inference_steps": STEPS, "generator": rngs()}
    pictures: torch.Tensor = pipeline(PROMPTS, **settings, output_type="pt", **options).images
    return pictures


@pytest.mark.parametrize(("family", "guidance", "options"), GUIDED)
def test_our_loop_makes_the_pipelines_pictures(
    generator_of: NewGenerator,
    pipeline_of: PipelineOf,
    family: GeneratorFamily,
    guidance: float,
    options: dict[str, Any],
):
    expected = _pipeline_pictures(pipeline_of(family), **options)
    pictures = generate(generator_of(family), PROMPTS, SEEDS, SIZE, STEPS, guidance)
    torch.testing.assert_close(pictures, expected, rtol=0.0, atol=1e-4)
    # The comparison means something: the pictures are not flat, not saturated, and not the same.
    assert pictures.std() > 0.1
    assert ((pictures > 0.0) & (pictures < 1.0)).float().mean() > 0.5
    assert (pictures[0] - pictures[1]).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_and_prompt_change_the_picture(generator_of: NewGenerator, family: GeneratorFamily):
    generator = generator_of(family)
    pictures = [
        generate(generator, [prompt], [3], SIZE, STEPS, guidance)
        for prompt, guidance in ((PROMPTS[0], 1.0), (PROMPTS[0], 4.0), (PROMPTS[1], 1.0))
    ]
    assert (pictures[0] - pictures[1]).abs().max() > 0.01
    assert (pictures[0] - pictures[2]).abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "steps"), [(ImageSize(32, 32), 2), (ImageSize(64, 40), 5)])
def test_noise_levels_are_the_pipelines(
    generator_of: NewGenerator, pipeline_of: PipelineOf, family: GeneratorFamily, size: ImageSize, steps: int
):
    pipeline = pipeline_of(family)
    pipeline("a red square", height=size.height, width=size.width, num_inference_steps=steps, output_type="latent")
    sigmas = generator_of(family).sigmas(steps, size)
    assert torch.equal(sigmas, pipeline.scheduler.sigmas)
    assert sigmas[-1] == 0.0
    assert bool((sigmas.diff() < 0).all())


@pytest.mark.parametrize(("family", "steps"), [("flux", 0), ("qwen_image", 1)])
def test_too_few_denoising_steps_are_refused(generator_of: NewGenerator, family: GeneratorFamily, steps: int):
    # Qwen-Image's scheduler stretches levels between the first and the last: one level gives 0 / 0.
    with pytest.raises(UsageError, match=f"needs at least {steps + 1} denoising steps, not {steps}"):
        generator_of(family).sigmas(steps, SIZE)


@pytest.mark.parametrize("family", ["flux", "qwen_image"])
def test_the_shift_of_noise_levels_grows_with_the_picture(generator_of: NewGenerator, family: GeneratorFamily):
    generator = generator_of(family)
    small, large = (generator.sigmas(8, ImageSize(side, side)) for side in (64, 512))
    assert bool((large[1:-2] > small[1:-2] + 0.01).all())


def test_sd3_with_a_dynamic_shift_agrees_too(new_generator: NewGenerator, pipeline_of: PipelineOf):
    generator = new_generator("sd3")
    fixed = pipeline_of("sd3").scheduler
    shifting = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipeline = diffusers.StableDiffusion3Pipeline(**{**pipeline_of("sd3").components, "scheduler": shifting})
    pipeline.set_progress_bar_config(disable=True)
    generator._pipeline.scheduler = shifting
    _pipeline_pictures(pipeline)
    assert torch.equal(generator.sigmas(STEPS, SIZE), pipeline.scheduler.sigmas)
    assert not torch.equal(generator.sigmas(STEPS, SIZE), fixed.sigmas)


def test_asking_for_noise_levels_leaves_the_scheduler_alone(new_generator: NewGenerator):
    generator = new_generator("flux")
    before = generator._pipeline.scheduler.sigmas.clone()
    generator.sigmas(3, SIZE)
    assert torch.equal(generator._pipeline.scheduler.sigmas, before)


@pytest.mark.parametrize(
    ("family", "option"), [("sd3", "guidance_scale"), ("flux", "guidance_scale"), ("qwen_image", "true_cfg_scale")]
)
def test_defaults_are_the_pipelines(
    generator_of: NewGenerator, pipeline_of: PipelineOf, family: GeneratorFamily, option: str
):
    generator, pipeline = generator_of(family), pipeline_of(family)
    parameters = inspect.signature(pipeline.__call__).parameters
    assert generator.default_guidance == parameters[option].default
    assert generator.default_denoising_steps == parameters["num_inference_steps"].default
    assert generator.default_size.height == pipeline.default_sample_size * pipeline.vae_scale_factor


@pytest.mark.parametrize("family", FAMILIES)
def test_no_guidance_given_means_the_generators_own(generator_of: NewGenerator, family: GeneratorFamily):
    generator = generator_of(family)
    conditions = generator.encode(PROMPTS, SIZE)
    noise, sigma = generator.initial_noise(SEEDS, SIZE), torch.tensor([0.7, 0.7])
    own = generator.velocity(noise, sigma, conditions)
    assert torch.equal(own, generator.velocity(noise, sigma, conditions, generator.default_guidance))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_noise_of_a_seed_is_the_pipelines_and_does_not_depend_on_the_batch(
    generator_of: NewGenerator, pipeline_of: PipelineOf, family: GeneratorFamily
):
    generator, pipeline = generator_of(family), pipeline_of(family)
    seen: list[torch.Tensor] = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["hidden_states"].clone()), with_kwargs=True
    )
    # Without a second pass the network is given exactly the latents.
    off = {"true_cfg_scale": 1.0} if family == "qwen_image" else {"guidance_scale": 1.0}
    pipeline(PROMPTS, height=32, width=48, num_inference_steps=2, generator=rngs(), output_type="latent", **off)
    hook.remove()
    noise = generator.initial_noise(SEEDS, SIZE)
    assert torch.equal(noise, seen[0])
    assert torch.equal(noise[1:], generator.initial_noise([SEEDS[1]], SIZE))
    assert torch.equal(noise.flip(0), generator.initial_noise(SEEDS[::-1], SIZE))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_of_a_batch_is_what_it_is_alone(generator_of: NewGenerator, family: GeneratorFamily):
    generator: Generator = generator_of(family)
    sigmas = generator.sigmas(2, SIZE)
    both = generator.encode(PROMPTS, SIZE)
    noise = generator.initial_noise(SEEDS, SIZE)
    together = sample(generator, both, noise, sigmas)
    alone = sample(generator, generator.encode(PROMPTS[:1], SIZE), noise[:1], sigmas)
    selected = sample(generator, both.select([0]), noise[:1], sigmas)
    torch.testing.assert_close(together[:1], alone, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(together[:1], selected, rtol=0.0, atol=1e-4)
