"""Whether a judge still answers: one that has gone is told from one that has nothing to say of a picture.

A judgement without an answer (`Status.UNANSWERED`) says nothing about what was asked. It is counted, so that its prompt
can be asked again; after too many in a row nothing more is made for a judge that is not there. A judge that has not
answered once, in this run or an earlier one, and refuses everything is taken to be set up wrongly: what it says then
counts as no answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rewarddance.core.errors import ModelError
from rewarddance.core.media import MediaSource
from rewarddance.core.types import Judgement, JudgementRequest, Ranking, Status
from rewarddance.search.verification import Judge

DEFAULT_PATIENCE = 20


@dataclass(slots=True)
class Attendance:
    """Counts judgements without an answer.

    Attributes:
        patience: So many in a row, each after all its tries, and the judge is taken to be gone.
        has_answered: Whether it has given any answer, now or in an earlier run.
    """

    patience: int = DEFAULT_PATIENCE
    has_answered: bool = False
    _silent: int = 0
    _refused: int = 0
    _in_a_row: int = 0

    @property
    def unanswered(self) -> int:
        """Of the prompt at hand; a refusal counts while there has been no answer at all."""
        return self._silent + (0 if self.has_answered else self._refused)

    def end_prompt(self) -> int:
        """What the prompt at hand lacks; the next one begins with none."""
        lacking = self.unanswered
        self._silent = self._refused = 0
        return lacking

    def note(self, judgements: Sequence[Judgement]) -> None:
        """Count some more.

        Raises:
            ModelError: The judge has gone, or never answered; the same command goes on later.
        """
        for judgement in judgements:
            self.has_answered |= judgement.status is Status.OK
            is_silent, is_refused = judgement.status is Status.UNANSWERED, judgement.status is Status.FAILED
            self._silent += is_silent
            self._refused += is_refused
            is_missing = is_silent or (is_refused and not self.has_answered)
            self._in_a_row = self._in_a_row + 1 if is_missing else 0
        if self._in_a_row >= self.patience and judgements[-1].status is Status.FAILED:
            raise ModelError(
                f"the judge answered none of its first {self._in_a_row} questions, at last: {judgements[-1].message}; "
                "mend the service, or how it is asked, and give the same command again"
            )
        if self._in_a_row >= self.patience:
            raise ModelError(
                f"the judge gave no answer {self._in_a_row} times in a row, at last: {judgements[-1].message}; "
                "the prompts before this one are stored: the same command goes on from here"
            )


@dataclass(frozen=True, slots=True)
class AttendedJudge:
    """A judge whose silence is noticed.

    Attributes:
        model: Who is asked.
        attendance: Of this judge alone.
    """

    model: Judge
    attendance: Attendance = field(default_factory=Attendance)

    def judge(self, requests: Sequence[JudgementRequest]) -> list[Judgement]:
        """One judgement a request, in order.

        Raises:
            ModelError: The judge has gone.
        """
        judgements = self.model.judge(requests)
        self.attendance.note(judgements)
        return judgements

    def rank(self, prompt: str, candidates: Sequence[MediaSource], instruction: str | Path | None = None) -> Ranking:
        """Candidates by pairwise win count.

        Raises:
            ModelError: The judge has gone.
        """
        ranking = self.model.rank(prompt, candidates, instruction)
        self.attendance.note(ranking.judgements)
        return ranking
