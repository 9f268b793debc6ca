"""The whole way that ReFL's gradient takes: network, predicted picture, decoder, preprocessing, VLM, log-odds."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rewarddance.generators.loading import load_generator
from rewarddance.generators.protocol import Generator, ImageSize
from rewarddance.objectives.flow import x0_prediction
from rewarddance.rewards.loading import new_reward_model
from rewarddance.rewards.protocol import RewardModel
from tests.tiny_generators import GENERATOR_FAMILIES, GeneratorFamily, tiny_generator_folder
from tests.tiny_models import save_tiny_model

SIZE, CLIP = ImageSize(32, 32), ImageSize(32, 32, 5)
PROMPTS = ("a red circle", "a blue square")
SIGMA = torch.tensor([0.4, 0.4])


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    return new_reward_model(save_tiny_model("internvl", tmp_path_factory.mktemp("vlm") / "model"), "pairwise", seed=0)


def _log_odds(generator: Generator, reward: RewardModel, latents: Tensor, size: ImageSize) -> Tensor:
    with torch.no_grad():
        conditions = generator.encode(PROMPTS, size)
    velocity = generator.velocity(latents, SIGMA, conditions)
    pixels = generator.decode(x0_prediction(latents, velocity, SIGMA), size)
    reference = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(1))
    return reward.reward(pixels, PROMPTS, reference).double().sum()


@pytest.mark.parametrize(("family", "size"), [*((family, SIZE) for family in GENERATOR_FAMILIES), ("wan", CLIP)])
def test_the_gradient_of_the_log_odds_agrees_with_a_finite_difference(
    family: GeneratorFamily, size: ImageSize, reward: RewardModel, tmp_path: Path
):
    generator = load_generator(tiny_generator_folder(family, tmp_path / family), device="cpu")
    # The way through a clip bends more, and so is looked at nearer to the middle.
    latents = (0.3 if size.frames is None else 0.1) * generator.initial_noise([1, 2], size)
    leaf = latents.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(_log_odds(generator, reward, leaf, size), leaf)
    slope = gradient.norm().item()
    assert slope > 0
    # Uphill, so that the slope is the gradient's length, and far enough for the rounding of float32.
    direction = gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = (_log_odds(generator, reward, latents + step * direction, size) for step in (0.02, -0.02))
    assert ((ahead - behind) / 0.04).item() == pytest.approx(slope, rel=0.02)
