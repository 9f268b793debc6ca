"""A tiny vision-language model, and coloured squares for it to look at."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from rewarddance.core.types import Comparison, Media
from rewarddance.rewards.loading import new_reward_model
from rewarddance.rewards.protocol import RewardKind, RewardModel
from tests.tiny_models import save_tiny_model

NewModel = Callable[[RewardKind], RewardModel]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("internvl", tmp_path_factory.mktemp("tiny") / "internvl")


@pytest.fixture
def new_model(tiny_folder: Path) -> NewModel:
    """Makes an untrained model of a kind, asked with short criteria."""

    def make(kind: RewardKind) -> RewardModel:
        return new_reward_model(tiny_folder, kind, instruction="brief", device="cpu")

    return make


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Six different noisy images."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 40, 40, 3), generator=rng, dtype=torch.uint8)
    return [Image.fromarray(sample.numpy()) for sample in pixels]


@pytest.fixture(scope="session")
def comparisons(images: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> list[Comparison]:
    """Four comparisons of files; image 0 is better than every other."""
    folder = tmp_path_factory.mktemp("media")
    media = []
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
        media.append(Media(folder / f"{number}.png"))
    return [
        Comparison("a", "a red square", media[0], media[1], choice="first"),
        Comparison("b", "a red square", media[2], media[0], choice="second"),
        Comparison("c", "two blue circles", media[0], media[3], choice="first", weight=2.0),
        Comparison("d", "two blue circles", media[4], media[0], choice="second"),
    ]
