import pytest
import torch

from rewarddance.generators.protocol import Generator
from rewarddance.training.regulariser import PictureEncoder
from tests.generators.conftest import SEEDS, SIZE, NewGenerator
from tests.tiny_generators import GENERATOR_FAMILIES, GeneratorFamily


@pytest.mark.parametrize("family", GENERATOR_FAMILIES)
def test_latents_go_to_the_decoder_and_back_unchanged(generator_of: NewGenerator, family: GeneratorFamily):
    generator: Generator = generator_of(family)
    latents = generator.initial_noise(SEEDS, SIZE)
    there = generator._family.decoder_input(latents, SIZE)
    torch.testing.assert_close(generator._family.encoded(there, SIZE), latents, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", GENERATOR_FAMILIES)
def test_latents_of_pictures_are_what_the_pipelines_own_encoder_gives(
    generator_of: NewGenerator, family: GeneratorFamily
):
    generator = generator_of(family)
    pixels = torch.rand((2, 3, SIZE.height, SIZE.width), generator=torch.Generator().manual_seed(0))
    latents = generator.latents_of(pixels)
    assert isinstance(generator, PictureEncoder)
    assert latents.shape == generator.initial_noise(SEEDS, SIZE).shape
    images = pixels * 2 - 1
    vae = generator._pipeline.vae
    with torch.no_grad():
        codes = vae.encode(images[:, :, None] if family == "qwen_image" else images).latent_dist.mean
    torch.testing.assert_close(generator._family.decoder_input(latents, SIZE), codes, rtol=1e-4, atol=1e-5)
