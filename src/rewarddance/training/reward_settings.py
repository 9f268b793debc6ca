"""From a config to how its rewards are asked and come to one number."""

from rewarddance.config.alignment import AlignConfig
from rewarddance.training.reward_attempts import Patience
from rewarddance.training.reward_normalisation import Normalisation
from rewarddance.training.reward_references import ReferenceUse


def reference_use(config: AlignConfig) -> ReferenceUse:
    """How several reference images make one reward."""
    return ReferenceUse(config.references.combine, config.references.soft_min_temperature)


def normalisation(config: AlignConfig) -> Normalisation:
    """How several rewards come to one scale."""
    settings = config.reward_normalisation
    return Normalisation(settings.over, settings.decay, settings.floor)


def patience(config: AlignConfig) -> Patience:
    """Deadline and tries of a reward that runs here."""
    return Patience(config.reward_patience.deadline_seconds, config.reward_patience.tries)
