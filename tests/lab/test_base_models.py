from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer, InternVLForConditionalGeneration

import rewarddance
from rewarddance.core.errors import ModelError, UsageError
from rewarddance.lab.base_models import lab_base
from rewarddance.lab.pretraining import examine
from rewarddance.rewards.loading import new_reward_model


@pytest.mark.parametrize(("size", "least"), [("nano", 0.65), ("micro", 0.9), ("small", 0.9)])
def test_a_shipped_base_knows_which_picture_shows_the_prompt_better(size: str, least: float) -> None:
    folder = lab_base(size)
    model = InternVLForConditionalGeneration.from_pretrained(folder)
    marks = examine(model, AutoTokenizer.from_pretrained(folder), items=96, seed=7)
    assert marks["shows it better"] > least
    assert marks["quality compared"] > 0.85


def test_the_weights_that_ship_are_under_thirty_megabytes() -> None:
    files = lab_base("small").parent.rglob("*")
    assert sum(file.stat().st_size for file in files if file.is_file()) < 30e6


def test_an_unknown_size_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="small"):
        lab_base("giant")


def test_copies_of_a_file_tie_exactly_where_their_answers_would_differ_in_the_last_bits(tmp_path: Path):
    rng = np.random.default_rng(0)
    for name, copy in (("a", "b"), ("c", "d")):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        for place in (name, copy):
            Image.fromarray(pixels).save(tmp_path / f"{place}.png")
    model = new_reward_model(str(lab_base("nano")), "scalar", device="cpu")
    for name, copy in (("a", "b"), ("c", "d")):
        ranking = model.rank("a red circle", [tmp_path / f"{name}.png", tmp_path / f"{copy}.png"])
        assert ranking.wins == (0.5, 0.5)
        assert ranking.rewards == (0.0, 0.0)


def test_the_names_of_the_command_line_are_told_to_python():
    with pytest.raises(ModelError, match=r"rewarddance\.lab_base\(SIZE\)"):
        rewarddance.load_reward_model("lab:nano")
    with pytest.raises(ModelError, match=r"rewarddance\.lab_generator\(\)"):
        rewarddance.load_generator("lab:drawn")
    assert rewarddance.lab_generator().name == "drawn"
