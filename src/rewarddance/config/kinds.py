"""Every kind of config file, by the name that `config show KIND` takes."""

from collections.abc import Mapping

from pydantic import BaseModel

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.training import TrainConfig

CONFIG_KINDS: Mapping[str, type[BaseModel]] = {
    "train": TrainConfig,
    "align": AlignConfig,
}
