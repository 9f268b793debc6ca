"""How far an alignment run has got: everything in a checkpoint that is no tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class AlignmentProgress:
    """JSON values only.

    Attributes:
        optimizer_step: Updates made so far.
        evaluated_step: The latest evaluation; None before the first.
        best_step: The last evaluation as good as the best of the whole run, by the held-out judges; None without a
            guard.
        kept_steps: Evaluations that the guard may still roll back to.
        ending: What the guard ends the run by: `stop` or `roll_back`, this one after the last step too; None while it
            goes on.
        verdict: What the guard said last.
        pull: Factor on the weights that hold the policy near its reference.
        references: Optimizer step at which reference images were made last; None for the first ones.
        guard: The guard's memory.
        reward: The rewards' running statistics.
    """

    optimizer_step: int = 0
    evaluated_step: int | None = None
    best_step: int | None = None
    kept_steps: Sequence[int] = ()
    ending: str | None = None
    verdict: str | None = None
    pull: float = 1.0
    references: int | None = None
    guard: Mapping[str, Any] | None = None
    reward: Mapping[str, Any] = field(default_factory=dict)
