"""The clock of a run: how many optimizer steps it has, and at which of them something is due."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The steps of one run.

    Attributes:
        length: Comparisons to learn from.
        comparisons_per_step: Comparisons of one optimizer step, over all processes and accumulated micro-batches.
        epochs: How often every comparison is seen.
    """

    length: int
    comparisons_per_step: int
    epochs: int

    @property
    def total_steps(self) -> int:
        """Updates of the whole run: the last one is full too, so it may reach a little into a further epoch."""
        return -(-self.epochs * self.length // self.comparisons_per_step)

    def epoch(self, optimizer_step: int) -> float:
        """How many times the data has been seen after that many updates."""
        return optimizer_step * self.comparisons_per_step / self.length

    def is_due(self, optimizer_step: int, every: int | None) -> bool:
        """Whether something is to be done after that many updates.

        Args:
            optimizer_step: Updates made so far, at least 1.
            every: Updates between two times; None for the end of every epoch. The end of the run always counts.
        """
        if optimizer_step >= self.total_steps:
            return True
        if every is not None:
            return optimizer_step % every == 0
        return int(self.epoch(optimizer_step)) > int(self.epoch(optimizer_step - 1))
