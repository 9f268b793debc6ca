import pytest
from pydantic import ValidationError

from rewarddance.config.training import TrainConfig


def test_a_config_cannot_be_changed_after_it_was_checked():
    config = TrainConfig.model_validate({"model": {"base": "m"}, "data": {"train": "d"}})

    with pytest.raises(ValidationError, match="frozen"):
        config.batch_size = 0


def test_a_separate_evaluation_folder_may_use_the_same_split_name():
    data = {"train": "d", "evaluation": "e", "train_split": "all", "evaluation_split": "all"}

    config = TrainConfig.model_validate({"model": {"base": "m"}, "data": data})

    assert config.data.evaluation_split == "all"
