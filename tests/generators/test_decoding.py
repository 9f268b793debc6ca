from typing import Any

import pytest
import torch
from torch import Tensor

from tests.generators.conftest import SEEDS, SIZE, NewGenerator
from tests.tiny_generators import GENERATOR_FAMILIES, GeneratorFamily

FAMILIES = GENERATOR_FAMILIES


def _value(generator: Any, latents: Tensor) -> Tensor:
    """One number of the pictures, in which every pixel has its own weight."""
    pixels = generator.decode(latents, SIZE)
    weights = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    return (pixels.double() * weights).sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_agrees_with_a_finite_difference(generator_of: NewGenerator, family: GeneratorFamily):
    generator = generator_of(family)
    latents = 0.5 * generator.initial_noise(SEEDS, SIZE)
    leaf = latents.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(_value(generator, leaf), leaf)
    # Uphill, so that the slope is the gradient's length, far above the rounding of float32.
    direction = gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = (_value(generator, latents + step * direction) for step in (1e-2, -1e-2))
    assert ((ahead - behind) / 2e-2).item() == pytest.approx(gradient.norm().item(), rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_the_decoder_changes_no_gradient(new_generator: NewGenerator, family: GeneratorFamily):
    generator = new_generator(family)
    gradients = []
    for is_on in (False, True):
        generator.gradient_checkpointing(is_on)
        leaf = generator.initial_noise(SEEDS, SIZE).requires_grad_(True)
        gradients.append(torch.autograd.grad(_value(generator, leaf), leaf)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_decoded_one_by_one_where_they_are_large(
    generator_of: NewGenerator, family: GeneratorFamily, monkeypatch: pytest.MonkeyPatch
):
    generator: Any = generator_of(family)
    latents = generator.initial_noise(SEEDS, SIZE)
    together = generator.decode(latents.clone().requires_grad_(True), SIZE).detach()
    decoded = []
    decoder = type(generator)._decoder

    def counted(self: Any, scaled: Tensor) -> Tensor:
        decoded.append(len(scaled))
        return decoder(self, scaled)

    monkeypatch.setattr(type(generator), "_decoder", counted)
    monkeypatch.setattr("rewarddance.generators.decoding._PIXELS_AT_ONCE", 2 * SIZE.height * SIZE.width - 1)
    with torch.no_grad():
        one_by_one = generator.decode(latents, SIZE)
    assert decoded == [1, 1]
    torch.testing.assert_close(one_by_one, together, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_between_black_and_white(generator_of: NewGenerator, family: GeneratorFamily):
    generator = generator_of(family)
    pixels = generator.decode(20.0 * generator.initial_noise(SEEDS, SIZE), SIZE)
    assert pixels.shape == (2, 3, SIZE.height, SIZE.width)
    assert pixels.min() == 0.0
    assert pixels.max() == 1.0
