"""What a search costs, counted in function evaluations: stated before it starts, counted while it runs.

Three kinds are kept apart, because what each of them costs depends on the models: on a large generator a velocity
outweighs everything, in the lab a judgement does.
"""

from dataclasses import dataclass
from typing import Literal

Measure = Literal["velocities", "all"]
"""What two searches must spend alike to be compared: velocities, as the literature counts, or everything."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Function evaluations, each of one picture.

    Attributes:
        velocities: Of the generator at one noise level; guidance is part of it, even where it takes a second pass.
        decodes: From latents to pixels.
        judgements: Asked of a reward model; one judgement may be two questions (both orders).
    """

    velocities: int = 0
    decodes: int = 0
    judgements: int = 0

    def __add__(self, other: "Budget") -> "Budget":
        return Budget(
            self.velocities + other.velocities, self.decodes + other.decodes, self.judgements + other.judgements
        )

    def times(self, prompts: int) -> "Budget":
        """The same for so many prompts."""
        return Budget(self.velocities * prompts, self.decodes * prompts, self.judgements * prompts)

    @property
    def total(self) -> int:
        """All evaluations together."""
        return self.velocities + self.decodes + self.judgements

    def of(self, measure: Measure) -> int:
        """The number that a comparison of searches goes by."""
        return self.velocities if measure == "velocities" else self.total


@dataclass(slots=True)
class Meter:
    """Counts evaluations where they are asked for.

    Attributes:
        spent: Up to now.
    """

    spent: Budget = Budget()

    def count(self, velocities: int = 0, decodes: int = 0, judgements: int = 0) -> None:
        """Add to what is spent."""
        self.spent += Budget(velocities, decodes, judgements)
