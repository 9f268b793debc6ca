import pytest
from pydantic import ValidationError

from rewarddance.config.reasoning import DistillationConfig
from rewarddance.config.training import TrainConfig

BASIS = {"model": {"base": "x"}, "data": {"train": "x"}}


def test_neither_rationales_nor_a_teacher_are_learned_unless_asked() -> None:
    config = TrainConfig.model_validate(BASIS)
    assert (config.rationale, config.distillation) == (None, None)


def test_a_pointwise_model_learns_no_rationales() -> None:
    with pytest.raises(ValidationError, match="pairwise"):
        TrainConfig.model_validate({**BASIS, "model": {"base": "x", "kind": "pointwise"}, "rationale": {}})


def test_reason_first_alone_is_refused() -> None:
    with pytest.raises(ValidationError, match="reason_first_share"):
        TrainConfig.model_validate({**BASIS, "rationale": {"reason_first_share": 1.0}})


def test_several_samples_need_a_temperature() -> None:
    with pytest.raises(ValidationError, match="samples"):
        DistillationConfig.model_validate({"teacher": "x", "sampling_temperature": 0.0})
