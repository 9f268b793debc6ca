"""RewardDance: vision-language reward models for image and video generators.

Importing this package loads no torch: the public names resolve on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewarddance.core.types import Comparison, Judgement, JudgementRequest, Media, Ranking, Status
    from rewarddance.generators.loading import load_generator
    from rewarddance.lab.base_models import lab_base
    from rewarddance.lab.generator_weights import lab_generator
    from rewarddance.rewards.loading import load_reward_model

__version__ = "0.1.0"

_HOMES = {
    "Comparison": "rewarddance.core.types",
    "Judgement": "rewarddance.core.types",
    "JudgementRequest": "rewarddance.core.types",
    "Media": "rewarddance.core.types",
    "Ranking": "rewarddance.core.types",
    "Status": "rewarddance.core.types",
    "lab_base": "rewarddance.lab.base_models",
    "lab_generator": "rewarddance.lab.generator_weights",
    "load_generator": "rewarddance.generators.loading",
    "load_reward_model": "rewarddance.rewards.loading",
}

__all__ = [
    "Comparison",
    "Judgement",
    "JudgementRequest",
    "Media",
    "Ranking",
    "Status",
    "__version__",
    "lab_base",
    "lab_generator",
    "load_generator",
    "load_reward_model",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'rewarddance' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
