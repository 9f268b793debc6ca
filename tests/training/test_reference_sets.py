"""Learning from several reference images in one question."""

import json
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from rewarddance.config.training import TrainConfig
from rewarddance.core.types import Media
from rewarddance.data.comparisons import write_comparisons
from rewarddance.data.records import ComparisonRecord
from rewarddance.rewards.instructions import stored_instruction
from rewarddance.rewards.loading import load_reward_model
from rewarddance.training.reward_model import train_reward_model
from tests.tiny_models import save_tiny_model

GREYS = (230, 140, 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and two rankings of three pictures."""
    folder = tmp_path_factory.mktemp("rankings")
    save_tiny_model("internvl", folder / "base")
    for grey in GREYS:
        Image.new("RGB", (32, 32), (grey,) * 3).save(folder / f"{grey}.png")
    media = tuple(Media(Path(f"{grey}.png")) for grey in GREYS)
    write_comparisons(folder, (ComparisonRecord(name, name, media, ranks=(0, 1, 2)) for name in ("a", "b")))
    return folder


def config(folder: Path, out: Path, kind: str = "pairwise") -> TrainConfig:
    data = {"train": folder, "train_split": None, "held_out_share": 0.0, "reference_sets": [2]}
    model = {"base": str(folder / "base"), "kind": kind, "instruction": "none"}
    optimizer = {"learning_rate": 3e-3}
    return TrainConfig.model_validate(
        {"model": model, "data": data, "optimizer": optimizer, "batch_size": 12, "out": out}
    )


def test_a_model_that_learned_from_sets_shows_references_together_and_names_its_criteria(folder: Path, tmp_path: Path):
    train_reward_model(config(folder, tmp_path / "run"))
    assert load_reward_model(tmp_path / "run" / "model", device="cpu").record.reference_mode == "together"
    record = json.loads((tmp_path / "run" / "model" / "rewarddance.json").read_text())
    assert record["instruction_sha256"] == stored_instruction("none").sha256


def test_only_a_pairwise_model_learns_from_sets(folder: Path, tmp_path: Path):
    with pytest.raises(ValidationError, match=r"data\.reference_sets are for a pairwise model"):
        config(folder, tmp_path / "run", "scalar")
