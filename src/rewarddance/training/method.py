"""What the loop asks of a way to improve the policy."""

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from rewarddance.training.workbench import LossPart


@runtime_checkable
class Method(Protocol):
    """One alignment algorithm.

    Attributes:
        updates_per_rollout: Optimizer steps that one set of pictures serves for; a run can be interrupted between sets.
    """

    updates_per_rollout: int

    def updates(self, optimizer_step: int) -> Iterator[Iterable[LossPart]]:
        """The next optimizer steps.

        The first one makes and judges the pictures. Each one gives the pieces of its loss; the loop sends them back one
        by one and updates the policy before it asks for the next. It asks to the end, where the method may let slow
        copies of the policy follow.

        Args:
            optimizer_step: Updates made so far.
        """
