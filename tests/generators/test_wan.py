import inspect
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from rewarddance.config.alignment import GeneratorLoraConfig
from rewarddance.core.errors import ModelError, UsageError
from rewarddance.generators.loading import load_generator
from rewarddance.generators.protocol import Generator, ImageSize, refuse_clips
from rewarddance.generators.sampling import generate, sample, sample_sde
from rewarddance.objectives.sde import SdeNoise
from rewarddance.training.policy import Policy
from tests.generators.conftest import PROMPTS, SEEDS, FolderOf, NewGenerator, load_pipeline, rngs
from tests.tiny_generators import GeneratorFamily

# Not square, and two latent frames.
SIZE = ImageSize(32, 48, 5)
STEPS = 4
PUBLISHED = {
    "_class_name": "UniPCMultistepScheduler",
    "flow_shift": 3.0,
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
    "final_sigmas_type": "zero",
}


@pytest.fixture
def generator(generator_of: NewGenerator) -> Any:
    return generator_of("wan")


@pytest.fixture
def pipeline(pipeline_of: Callable[[GeneratorFamily], Any]) -> Any:
    return pipeline_of("wan")


@pytest.fixture
def copied(folder_of: FolderOf, tmp_path: Path) -> Path:
    """A tiny Wan that a test may change."""
    return Path(shutil.copytree(folder_of("wan"), tmp_path / "wan"))


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _as_published(folder: Path, **changes: Any) -> Path:
    """With the scheduler of the published folders."""
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**PUBLISHED, **changes}))
    _change(folder / "model_index.json", scheduler=["diffusers", "UniPCMultistepScheduler"])
    return folder


def _pipeline_clips(pipeline: Any, guidance: float = 5.0, steps: int = STEPS) -> torch.Tensor:
    settings = {"height": SIZE.height, "width": SIZE.width, "num_frames": SIZE.frames, "num_inference_steps": steps}
    made = pipeline(PROMPTS, **settings, guidance_scale=guidance, generator=rngs(), output_type="pt")
    frames: torch.Tensor = made.frames
    return frames


def _clips(generator: Any, guidance: float = 5.0, steps: int = STEPS) -> torch.Tensor:
    return generate(generator, PROMPTS, SEEDS, SIZE, steps, guidance)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_our_loop_makes_the_pipelines_clips(generator: Any, pipeline: Any, guidance: float):
    clips = _clips(generator, guidance)
    torch.testing.assert_close(clips, _pipeline_clips(pipeline, guidance), rtol=0.0, atol=1e-4)
    # The comparison means something: neither flat nor saturated, other clips of other prompts, and they move.
    assert clips.shape == (2, 5, 3, 32, 48)
    assert clips.std() > 0.1
    assert ((clips > 0.0) & (clips < 1.0)).float().mean() > 0.5
    assert (clips[0] - clips[1]).abs().max() > 0.1
    assert (clips[:, 0] - clips[:, -1]).abs().max() > 0.1


def test_the_gradient_of_a_decoded_clip_agrees_with_a_finite_difference(generator: Any):
    latents = 0.5 * generator.initial_noise(SEEDS, SIZE)
    weights = torch.randn((2, 5, 3, 32, 48), generator=torch.Generator().manual_seed(0))

    def value(at: torch.Tensor) -> torch.Tensor:
        return (generator.decode(at, SIZE).double() * weights).sum()

    leaf = latents.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    # Uphill, so that the slope is the gradient's length, far above the rounding of float32.
    direction = gradient / gradient.norm()
    with torch.no_grad():
        slope = (value(latents + 1e-2 * direction) - value(latents - 1e-2 * direction)) / 2e-2
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=0.02)


def test_checkpointing_changes_no_gradient_of_network_and_decoder(new_generator: NewGenerator):
    generator = new_generator("wan")
    conditions = generator.encode(PROMPTS, SIZE)
    gradients = []
    for is_on in (False, True):
        generator.gradient_checkpointing(is_on)
        leaf = generator.initial_noise(SEEDS, SIZE).requires_grad_(True)
        velocity = generator.velocity(leaf, torch.tensor([0.9, 0.4]), conditions, 3.0)
        value = generator.decode(leaf - 0.5 * velocity, SIZE).square().sum()
        gradients.append(torch.autograd.grad(value, leaf)[0])
    assert generator.module.is_gradient_checkpointing
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)


def test_clips_are_decoded_one_by_one_where_they_are_long(generator: Any, monkeypatch: pytest.MonkeyPatch):
    latents = generator.initial_noise(SEEDS, SIZE)
    together = generator.decode(latents.clone().requires_grad_(True), SIZE).detach()
    decoded = []
    decoder = type(generator)._decoder

    def counted(self: Any, scaled: torch.Tensor) -> torch.Tensor:
        decoded.append(len(scaled))
        made: torch.Tensor = decoder(self, scaled)
        return made

    monkeypatch.setattr(type(generator), "_decoder", counted)
    # Room for nine frames, and each clip has five.
    monkeypatch.setattr("rewarddance.generators.decoding._PIXELS_AT_ONCE", 9 * SIZE.height * SIZE.width)
    with torch.no_grad():
        one_by_one = generator.decode(latents, SIZE)
    assert decoded == [1, 1]
    torch.testing.assert_close(one_by_one, together, rtol=0.0, atol=1e-5)


def test_noise_levels_are_the_pipelines_whatever_the_size(generator: Any, pipeline: Any):
    pipeline("a red square", height=32, width=32, num_frames=1, num_inference_steps=5, output_type="latent")
    assert torch.equal(generator.sigmas(5, SIZE), pipeline.scheduler.sigmas)
    assert torch.equal(generator.sigmas(5, ImageSize(64, 64, 9)), pipeline.scheduler.sigmas)


def test_a_published_folders_noise_levels_are_taken_and_begin_at_one(copied: Path):
    generator, pipeline = load_generator(_as_published(copied), device="cpu"), load_pipeline(copied)
    pipeline.scheduler.set_timesteps(STEPS)
    sigmas = generator.sigmas(STEPS)
    assert sigmas[0] == 1.0
    assert torch.equal(sigmas[1:], pipeline.scheduler.sigmas[1:])
    # 3 s / (1 + 2 s) for s = 1 - 0.999 / 4: the solver divides 1 to 0.001 by steps
    assert sigmas[1].item() == pytest.approx(3 * 0.75025 / 2.5005, abs=1e-6)
    # A step from nearly 1 would divide by nothing in stochastic samplers.
    asked = (generator.encode(PROMPTS, SIZE), generator.initial_noise(SEEDS, SIZE), sigmas)
    trajectory = sample_sde(generator, *asked, 1.0, SdeNoise("flow", 0.7), SEEDS)
    assert trajectory.latents.abs().max() < 20


def test_one_step_of_a_published_folder_is_the_pipelines_but_for_a_rounded_timestep(copied: Path):
    generator, pipeline = load_generator(_as_published(copied), device="cpu"), load_pipeline(copied)
    # A first step of the multistep solver has no history; it tells the network 999 where ours tells it 1000.
    noise = generator.initial_noise(SEEDS, SIZE)
    rounded = generator.velocity(noise, torch.tensor([0.999, 0.999]), generator.encode(PROMPTS, SIZE), 1.0)
    clips = generator.decode(noise - rounded, SIZE)
    torch.testing.assert_close(clips, _pipeline_clips(pipeline, 1.0, 1), rtol=0.0, atol=1e-4)
    assert not torch.equal(_clips(generator, 1.0, 1), clips)


def test_a_published_folder_is_saved_as_it_came(copied: Path, tmp_path: Path):
    load_generator(_as_published(copied), device="cpu").save(tmp_path / "saved")
    assert type(load_pipeline(tmp_path / "saved").scheduler) is diffusers.UniPCMultistepScheduler


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_flow_sigmas": False}, "use_flow_sigmas False; for a flow it is True"),
        ({"prediction_type": "epsilon"}, "prediction_type epsilon; for a flow it is flow_prediction"),
        ({"final_sigmas_type": "sigma_min"}, "final_sigmas_type sigma_min; for a flow it is zero"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas True; for a flow it is False"),
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting"),
    ],
)
def test_a_multistep_scheduler_of_another_kind_is_refused(copied: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message) as refusal:
        load_generator(_as_published(copied, **changes), device="cpu")
    assert "\n" not in str(refusal.value)


def test_a_multistep_scheduler_stays_refused_for_pictures(folder_of: FolderOf, tmp_path: Path):
    folder = Path(shutil.copytree(folder_of("sd3"), tmp_path / "sd3"))
    with pytest.raises(ModelError, match="scheduler is UniPCMultistepScheduler; only FlowMatchEulerDiscreteScheduler"):
        load_generator(_as_published(folder), device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"transformer_2": ["diffusers", "WanTransformer3DModel"]},
        {"boundary_ratio": 0.875},
        {"expand_timesteps": True},
    ],
)
def test_a_wan_of_another_version_is_refused(copied: Path, changes: dict[str, Any]):
    _change(copied / "model_index.json", **changes)
    with pytest.raises(ModelError, match=r"is of Wan 2\.2, which is not supported; give a Wan 2\.1"):
        load_generator(copied, device="cpu")


def test_defaults_are_the_pipelines(generator: Any, pipeline: Any):
    parameters = inspect.signature(pipeline.__call__).parameters
    size = [parameters[name].default for name in ("height", "width", "num_frames")]
    assert generator.default_size == ImageSize(*size)
    assert generator.default_guidance == parameters["guidance_scale"].default
    assert generator.default_denoising_steps == parameters["num_inference_steps"].default
    assert isinstance(generator, Generator)
    assert generator.name == "wan"


def test_the_noise_of_a_seed_is_the_pipelines_and_does_not_depend_on_the_batch(generator: Any, pipeline: Any):
    seen: list[torch.Tensor] = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["hidden_states"].clone()), with_kwargs=True
    )
    _pipeline_clips(pipeline, 1.0, 2)
    hook.remove()
    noise = generator.initial_noise(SEEDS, SIZE)
    assert torch.equal(noise, seen[0])
    assert torch.equal(noise[1:], generator.initial_noise([SEEDS[1]], SIZE))


def test_a_row_of_a_batch_is_what_it_is_alone(generator: Any):
    conditions, noise, sigmas = generator.encode(PROMPTS, SIZE), generator.initial_noise(SEEDS, SIZE), [1.0, 0.4, 0.0]
    together = sample(generator, conditions, noise, torch.tensor(sigmas))
    alone = sample(generator, conditions.select([1]), noise[1:], torch.tensor(sigmas))
    torch.testing.assert_close(together[1:], alone, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("frames", [None, 0, -3, 4, 6])
def test_other_numbers_of_frames_are_refused(generator: Any, frames: int | None):
    wrong = ImageSize(32, 48, frames)
    for ask in (lambda: generator.encode(PROMPTS, wrong), lambda: generator.initial_noise(SEEDS, wrong)):
        with pytest.raises(UsageError, match="give one more than a multiple of 4, such as 81") as refusal:
            ask()
        assert "\n" not in str(refusal.value)


def test_sizes_between_patches_and_beyond_the_table_of_positions_are_refused(generator: Any):
    with pytest.raises(UsageError, match="use multiples of 16"):
        generator.encode(PROMPTS, ImageSize(24, 48, 5))
    # 64 patches of 2 latents of 8 pixels
    with pytest.raises(UsageError, match="the largest is 1024"):
        generator.encode(PROMPTS, ImageSize(1040, 48, 5))


@pytest.mark.parametrize("family", ["sd3", "flux", "qwen_image"])
def test_a_generator_of_pictures_takes_no_frames(generator_of: NewGenerator, family: GeneratorFamily):
    with pytest.raises(UsageError, match=f"{family} makes pictures, not clips of 5 frames; leave the frames out"):
        generator_of(family).encode(PROMPTS, SIZE)


def test_one_frame_is_a_clip_too(generator: Any):
    made = generate(generator, PROMPTS, SEEDS, ImageSize(32, 48, 1), 2)
    assert made.shape == (2, 1, 3, 32, 48)


def test_latents_go_to_the_decoder_and_back_unchanged(generator: Any):
    latents = generator.initial_noise(SEEDS, SIZE)
    there = generator._family.decoder_input(latents, SIZE)
    torch.testing.assert_close(generator._family.encoded(there, SIZE), latents, rtol=0, atol=1e-5)


def test_latents_of_clips_are_what_the_pipelines_own_encoder_gives(generator: Any):
    pixels = torch.rand((2, 5, 3, 32, 48), generator=torch.Generator().manual_seed(0))
    latents = generator.latents_of(pixels)
    assert latents.shape == generator.initial_noise(SEEDS, SIZE).shape
    with torch.no_grad():
        codes = generator._pipeline.vae.encode(pixels.transpose(1, 2) * 2 - 1).latent_dist.mean
    torch.testing.assert_close(generator._family.decoder_input(latents, SIZE), codes, rtol=1e-4, atol=1e-5)


def test_adapters_alone_learn_by_their_usual_names(new_generator: NewGenerator):
    generator = new_generator("wan")
    policy = Policy(generator, GeneratorLoraConfig(rank=2), "float32", seed=0)
    # Two blocks, each with self-attention and cross-attention, of four matrices with A and B.
    assert len(policy.parameters) == 2 * 2 * 4 * 2
    velocity = generator.velocity(
        generator.initial_noise(SEEDS, SIZE), torch.tensor([0.9, 0.4]), generator.encode(PROMPTS, SIZE), 3.0
    )
    velocity.square().mean().backward()
    with_gradient = {name for name, value in generator.module.named_parameters() if value.grad is not None}
    assert with_gradient == set(policy.parameters)


@pytest.mark.parametrize("kind", ["full", "adapters"])
def test_diffusers_makes_the_same_clips_from_the_saved_folder(new_generator: NewGenerator, tmp_path: Path, kind: str):
    generator = new_generator("wan")
    before = _clips(generator, steps=2)
    Policy(generator, None if kind == "full" else GeneratorLoraConfig(rank=2), "float32", seed=0)
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in generator.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    tuned = _clips(generator, steps=2)
    generator.save(tmp_path / "saved")
    theirs = _pipeline_clips(load_pipeline(tmp_path / "saved"), steps=2)
    torch.testing.assert_close(theirs, tuned, rtol=0.0, atol=1e-4)
    again = _clips(load_generator(tmp_path / "saved", device="cpu"), steps=2)
    torch.testing.assert_close(again, tuned, rtol=0.0, atol=1e-4)
    assert (tuned - before).abs().max() > 0.01


def test_a_half_precision_network_keeps_what_it_must_and_answers_in_full_precision(
    folder_of: FolderOf, generator: Any, tmp_path: Path
):
    half: Any = load_generator(folder_of("wan"), device="cpu", dtype="bfloat16")
    kept = {value.dtype for name, value in half.module.named_parameters() if "scale_shift_table" in name}
    assert kept == {torch.float32}
    asked = (half.initial_noise(SEEDS, SIZE), torch.tensor([0.9, 0.4]))
    answer = half.velocity(*asked, half.encode(PROMPTS, SIZE), 3.0)
    expected = generator.velocity(*asked, generator.encode(PROMPTS, SIZE), 3.0)
    assert answer.dtype == torch.float32
    assert torch.cosine_similarity(answer.flatten(), expected.flatten(), dim=0) > 0.99
    # Adapters in full precision change neither what it computes in, nor what is saved.
    Policy(half, GeneratorLoraConfig(rank=2), "bfloat16", seed=0)
    assert torch.equal(half.velocity(*asked, half.encode(PROMPTS, SIZE), 3.0), answer)
    for name, value in half.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.2)
    half.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "merged_adapter.json").read_text())["precision"] == "bfloat16"


def test_a_prompt_that_is_cut_off_is_told(generator: Any, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "rewarddance.generators.wan"):
        generator.encode(["a red square", "blue " * 600], SIZE)
    told = [entry.getMessage() for entry in caplog.records if entry.name == "rewarddance.generators.wan"]
    assert len(told) == 1
    # Each word is a token, and the end is one.
    assert "of 601 tokens is cut off after 512: blue blue" in told[0]


def test_work_with_pictures_alone_refuses_clips(generator: Any, generator_of: NewGenerator):
    with pytest.raises(UsageError, match="wan makes clips, and a search knows pictures only; take a generator of pict"):
        refuse_clips(generator, "a search")
    refuse_clips(generator_of("sd3"), "a search")
