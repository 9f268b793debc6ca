"""Pictures and loaded backbones for the tests of this folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rewarddance.rewards.backbones.loading import load_backbone
from rewarddance.rewards.backbones.vision_language import VisionLanguageBackbone
from tests.tiny_models import save_tiny_model


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's tiny model, saved once a session; not to be changed."""
    saved: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in saved:
            saved[family] = save_tiny_model(family, tmp_path_factory.mktemp("tiny") / family)
        return saved[family]

    return folder


@pytest.fixture(scope="session")
def backbone_of(tiny_model_folder: Callable[[str], Path]) -> Callable[[str], VisionLanguageBackbone]:
    """A family's tiny model, loaded once a session; not to be changed."""
    loaded: dict[str, VisionLanguageBackbone] = {}

    def backbone(family: str) -> VisionLanguageBackbone:
        if family not in loaded:
            loaded[family] = load_backbone(tiny_model_folder(family))
        return loaded[family]

    return backbone


@pytest.fixture(scope="session")
def draw_image() -> Callable[..., Image.Image]:
    """Blocks of random colours with fine noise: edges that overshoot, and texture that aliases."""

    def draw(height: int, width: int, seed: int = 0) -> Image.Image:
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)
        noisy = blocks[:height, :width] + rng.integers(-20, 21, (height, width, 3))
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))

    return draw
