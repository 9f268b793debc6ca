from pathlib import Path

import pytest
from PIL import Image

from rewarddance.config.reasoning import DistillationConfig
from rewarddance.config.training import DataConfig, ModelConfig, TrainConfig
from rewarddance.core.errors import DataError
from rewarddance.core.types import Media
from rewarddance.data.comparisons import write_comparisons
from rewarddance.data.records import ComparisonRecord
from rewarddance.training.learning_data import comparisons_held_out, comparisons_to_learn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty comparisons of thirty prompts, all of one split."""
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    media = (Media(Path("one.png")), Media(Path("one.png")))
    write_comparisons(
        tmp_path,
        (ComparisonRecord(f"{n}", f"prompt {n % 30}", media, "first", split="train") for n in range(60)),
    )
    return tmp_path


def config(folder: Path, **data: object) -> TrainConfig:
    return TrainConfig(model=ModelConfig(base="b"), data=DataConfig.model_validate({"train": folder, **data}))


def test_a_share_of_the_prompts_is_held_out_whole(folder: Path) -> None:
    settings = config(folder, held_out_share=0.3)
    learned, held_out = comparisons_to_learn(settings, None), comparisons_held_out(settings, None)
    prompts = [{chosen[place].prompt for place in range(len(chosen))} for chosen in (learned, held_out)]
    assert len(learned) + len(held_out) == 60
    assert not prompts[0] & prompts[1]
    assert 2 < len(prompts[1]) < 18  # about nine of thirty


def test_nothing_is_held_out_when_the_share_is_zero(folder: Path) -> None:
    settings = config(folder, held_out_share=0.0)
    assert len(comparisons_to_learn(settings, None)) == 60
    assert len(comparisons_held_out(settings, None)) == 0


def test_comparisons_that_nobody_has_judged_are_for_a_teacher_alone(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    media = (Media(Path("one.png")), Media(Path("one.png")))
    choices = ("first", None, "second", None)
    records = (
        ComparisonRecord(f"{n}", f"prompt {n}", media, choice, split="train") for n, choice in enumerate(choices)
    )
    write_comparisons(tmp_path, records)
    settings = config(tmp_path, held_out_share=0.0)
    assert [one.id for one in comparisons_to_learn(settings, None)] == ["0", "2"]
    teacher = DistillationConfig(teacher="teacher")
    assert len(comparisons_to_learn(settings.model_copy(update={"distillation": teacher}), None)) == 4


def test_reference_sets_are_learned_beside_the_comparisons(tmp_path: Path) -> None:
    for place in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{place}.png")
    media = tuple(Media(Path(f"{place}.png")) for place in range(3))
    write_comparisons(tmp_path, (ComparisonRecord(str(n), f"prompt {n}", media, ranks=(0, 1, 2)) for n in range(2)))
    learned = comparisons_to_learn(config(tmp_path, train_split=None, held_out_share=0.0, reference_sets=[2]), None)
    # Two rankings of three: 3 pairs and 3 sets each.
    shown = [len(learned[place].beside_first) for place in range(len(learned))]
    assert shown == [0] * 6 + [1] * 6


def test_a_split_that_is_not_there_is_refused_with_those_that_are(folder: Path) -> None:
    with pytest.raises(DataError, match="no comparisons with split 'validatoin'; there are: train"):
        comparisons_held_out(config(folder, evaluation_split="validatoin"), None)


def test_a_named_split_is_held_out_instead_of_a_share(folder: Path) -> None:
    settings = config(folder, evaluation=folder, evaluation_split="train")
    assert len(comparisons_to_learn(settings, None)) == 60
    assert len(comparisons_held_out(settings, None)) == 60
