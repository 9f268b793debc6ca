"""Rewards on one scale before they are weighted, whose memory of earlier steps is saved with the run.

Without it the reward with the largest spread decides alone, whatever the weights say.

Source:
    Per-reward normalisation before the sum: GDPO, arXiv:2601.05242.
    Differs: over the steps so far with exponential forgetting, not within one batch, so that a batch of one sample has
    a scale too; and with a floor, so that a reward that hardly varies is not blown up to noise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from jaxtyping import Float
from torch import Tensor

from rewarddance.core.choices import require_choice
from rewarddance.core.errors import CheckpointError, UsageError

Over: TypeAlias = Literal["running", "batch"]

_MOMENTS = ("weight", "mean", "mean_square")


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How each reward is brought to one scale.

    Attributes:
        over: `running`: mean and standard deviation of the steps so far; `batch`: of the batch at hand alone. The
            pictures of a rollout, whose groups are compared, are one batch.
        decay: Share in [0, 1) of the memory that a new batch leaves in place; 0.99 looks back some hundred batches.
        floor: Least standard deviation that is divided by, in the reward's own units (log-odds for a reward model).
    """

    over: Over = "running"
    decay: float = 0.99
    floor: float = 0.1

    def __post_init__(self) -> None:
        require_choice("normalisation over", self.over, get_args(Over))
        if not (0 <= self.decay < 1 and math.isfinite(self.floor) and self.floor > 0):
            raise UsageError("a normalisation needs 0 <= decay < 1 and a floor above 0")


@dataclass(frozen=True, slots=True)
class RunningMoments:
    """Exponentially forgetting mean and mean square.

    Attributes:
        weight: Of everything seen so far; approaches 1, 0 before the first batch.
        mean: Weighted sum of batch means, not yet divided by `weight`.
        mean_square: The same of squares.
    """

    weight: float = 0.0
    mean: float = 0.0
    mean_square: float = 0.0

    def updated(self, values: Float[Tensor, " batch"], decay: float) -> "RunningMoments":
        """The moments after one more batch, whatever its size."""
        exact = values.detach().double()
        return RunningMoments(
            decay * self.weight + (1 - decay),
            decay * self.mean + (1 - decay) * exact.mean().item(),
            decay * self.mean_square + (1 - decay) * exact.square().mean().item(),
        )

    @property
    def centre(self) -> float:
        """Mean of what was seen; 0 before the first batch."""
        return self.mean / self.weight if self.weight else 0.0

    @property
    def spread(self) -> float:
        """Standard deviation of what was seen, at least 0."""
        if not self.weight:
            return 0.0
        return math.sqrt(max(0.0, self.mean_square / self.weight - self.centre**2))


class RewardNormaliser:
    """Normalises every reward by its own moments."""

    def __init__(self, names: tuple[str, ...], settings: Normalisation) -> None:
        self._settings = settings
        self._moments = {name: RunningMoments() for name in names}

    def observe(self, name: str, values: Float[Tensor, " batch"]) -> None:
        """Take a batch of raw values of one reward into its moments."""
        self._moments[name] = self._moments[name].updated(values, self._settings.decay)

    def normalised(self, name: str, values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Values less their centre, in units of their spread; mean and spread take no part in the gradient."""
        moments = self._moments[name]
        if self._settings.over == "batch" or not moments.weight:
            moments = RunningMoments().updated(values, 0.0)
        return (values - moments.centre) / max(moments.spread, self._settings.floor)

    def state_dict(self) -> dict[str, dict[str, float]]:
        """The moments as JSON, to be saved with a checkpoint."""
        return {
            name: {moment: getattr(moments, moment) for moment in _MOMENTS} for name, moments in self._moments.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Take over saved moments.

        Raises:
            CheckpointError: They are those of other rewards.
        """
        if set(state) != set(self._moments) or any(set(_MOMENTS) != set(moments) for moments in state.values()):
            raise CheckpointError(
                f"the checkpoint holds the statistics of other rewards ({', '.join(sorted(state)) or 'none'}); "
                "resume with the rewards that the run began with"
            )
        self._moments = {
            name: RunningMoments(**{moment: float(moments[moment]) for moment in _MOMENTS})
            for name, moments in state.items()
        }
