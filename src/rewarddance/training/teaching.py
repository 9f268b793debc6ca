"""What a teacher answered to the comparisons of a run, ready to be learned."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from rewarddance.rewards.protocol import TeacherAnswers
from rewarddance.training.data_order import Shown


@dataclass(frozen=True, slots=True)
class Teaching:
    """A teacher's answers to all comparisons of a run.

    Attributes:
        log_odds: That the second medium is better, as stored, from both orders; not a number where there is none.
        is_judged: Which of them people have judged as well.
        generated_tokens: Tokens that the teacher wrote for them.
        failures: Comparisons without an answer, by the status of their judgement.
    """

    log_odds: npt.NDArray[np.float64]
    is_judged: npt.NDArray[np.bool_]
    generated_tokens: int
    failures: dict[str, int]

    @property
    def count(self) -> int:
        """Comparisons with an answer."""
        return int(np.isfinite(self.log_odds).sum())

    @property
    def unjudged(self) -> int:
        """Comparisons of which the teacher's answer alone is learned."""
        return int((~self.is_judged).sum())

    def of(self, rows: Sequence[Shown]) -> TeacherAnswers:
        """The answers to the rows of a batch, in the order in which their media are shown."""
        signs = np.array([-1.0 if row.is_swapped else 1.0 for row in rows])
        places = [row.index for row in rows]
        values = signs * self.log_odds[places]
        is_known = np.isfinite(values)
        return TeacherAnswers(
            log_odds=torch.from_numpy(np.where(is_known, values, 0.0)).float(),
            is_known=torch.from_numpy(is_known),
            is_alone=torch.from_numpy(~self.is_judged[places]),
        )
