"""Started by torchrun in `test_reward_model.py`: the same little run, shared by two processes."""

import sys
from pathlib import Path

from rewarddance.config.training import TrainConfig
from rewarddance.training.reward_model import train_reward_model
from tests.training.stand_in import StandInModel, stand_in_comparisons


def main(out: Path) -> None:
    model = StandInModel()
    model.module.dropout.p = 0.0
    settings = TrainConfig.model_validate(
        {
            "model": {"base": "unused", "instruction": "none"},
            "data": {"train": "unused"},
            "optimizer": {"learning_rate": 3e-3},
            "batch_size": 2,
            "out": str(out),
        }
    )
    train_reward_model(settings, model, stand_in_comparisons(16), stand_in_comparisons(5, 100))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
