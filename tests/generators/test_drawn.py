import pytest
import torch
from safetensors.torch import load_file, save_file

from rewarddance.config.alignment import GeneratorLoraConfig
from rewarddance.core.errors import ModelError, UsageError
from rewarddance.generators.drawn import load_drawn
from rewarddance.generators.loading import load_generator
from rewarddance.generators.phrases import PhraseEncoder
from rewarddance.generators.protocol import Generator, ImageSize
from rewarddance.generators.sampling import generate
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.training.policy import Policy

PROMPTS = ("a red circle left of a square", "two blue crosses")
ENCODER = PhraseEncoder(
    slots={"count": (("a",), ("two",)), "colour": (("red",), ("blue",)), "shape": (("circle", "circles"), ("cross",))},
    links=("left", "above"),
    fillers=("of", "and"),
    phrases=2,
)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return load_generator(str(lab_generator()), device="cpu")


def test_the_lab_generator_loads_as_any_other(generator):
    assert generator.name == "drawn"
    assert generator.default_size == ImageSize(32, 32)


def test_a_phrase_is_one_hot_in_every_slot():
    # count 2 + 1, colour 2 + 1, shape 2 + 1, links 2 + 1, place 2: 14 entries; red is the first colour
    first, second = ENCODER.encode(["two red circles"])[0]
    assert first.nonzero().flatten().tolist() == [1, 3, 6, 11, 12]
    assert not second.any()


def test_a_link_stands_in_both_phrases():
    first, second = ENCODER.encode(["a circle left of a cross"])[0]
    assert first[9] == second[9] == 1


@pytest.mark.parametrize("prompt", ["", "red circle", "a green circle", "a circle and a cross and a circle"])
def test_what_is_not_of_the_grammar_is_refused(prompt):
    with pytest.raises(UsageError):
        ENCODER.encode([prompt])


def test_guidance_extends_the_line_from_the_empty_prompt_to_the_prompt(generator):
    conditions, latents = generator.encode(PROMPTS), generator.initial_noise([0, 1])
    sigma = torch.tensor([0.9, 0.4])
    at = {strength: generator.velocity(latents, sigma, conditions, strength) for strength in (0.0, 1.0, 3.0)}
    torch.testing.assert_close(at[3.0], at[0.0] + 3 * (at[1.0] - at[0.0]), atol=1e-4, rtol=1e-4)


def test_a_saved_generator_makes_the_same_pictures(generator, tmp_path):
    generator.save(tmp_path)
    again = load_drawn(tmp_path)
    assert torch.equal(generate(generator, PROMPTS, [0, 1]), generate(again, PROMPTS, [0, 1]))


def test_a_picture_does_not_depend_on_the_others_of_its_batch(generator):
    together = generate(generator, PROMPTS, [0, 1])
    alone = generate(generator, PROMPTS[1:], [1])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)


def test_gradients_reach_the_latents_through_decoding(generator):
    latents = generator.initial_noise([3]).requires_grad_()
    velocity = generator.velocity(latents, torch.tensor([0.5]), generator.encode(PROMPTS[:1]))
    generator.decode(latents - 0.5 * velocity).sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0


def test_another_size_is_refused(generator):
    with pytest.raises(UsageError, match="32 x 32"):
        generator.initial_noise([0], ImageSize(64, 64))


def test_a_folder_without_its_grammar_is_refused(generator, tmp_path):
    generator.save(tmp_path)
    (tmp_path / "phrases.json").unlink()
    with pytest.raises(ModelError, match="grammar"):
        load_drawn(tmp_path)


def test_a_tuned_generator_is_saved_with_its_adapters_merged(tmp_path):
    generator = load_generator(str(lab_generator()), device="cpu")
    Policy(generator, GeneratorLoraConfig(), "float32", seed=0)
    for name, weight in generator.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(0))
    generator.save(tmp_path)
    again = generate(load_drawn(tmp_path), PROMPTS, [0, 1])
    torch.testing.assert_close(again, generate(generator, PROMPTS, [0, 1]), atol=1e-4, rtol=0)
    base = load_generator(str(lab_generator()), device="cpu")
    assert (again - generate(base, PROMPTS, [0, 1])).abs().max() > 0.05


def test_a_folder_with_missing_weights_is_refused(generator, tmp_path):
    generator.save(tmp_path)
    path = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.popitem()
    save_file(weights, path)
    with pytest.raises(ModelError, match="missing"):
        load_drawn(tmp_path)
