import pytest

from rewarddance.core.errors import ModelError
from rewarddance.core.types import Judgement, Status
from rewarddance.search.attendance import Attendance

OK = Judgement(Status.OK, score=0.5, reward=0.0)
REFUSED = Judgement(Status.FAILED, message="rejected: HTTP 404: no such model")
SILENT = Judgement(Status.UNANSWERED, message="unreachable")


def test_a_judge_that_refuses_everything_from_the_start_is_set_up_wrongly():
    attendance = Attendance(patience=5)
    attendance.note([REFUSED] * 4)
    with pytest.raises(ModelError, match="answered none of its first 5 questions, at last: rejected: HTTP 404"):
        attendance.note([REFUSED])
    assert attendance.unanswered == 5


def test_what_a_judge_that_has_answered_refuses_is_final():
    attendance = Attendance(patience=5)
    attendance.note([OK, *[REFUSED] * 20])
    assert attendance.unanswered == 0


def test_a_judge_that_falls_silent_has_gone():
    attendance = Attendance(patience=3)
    attendance.note([OK, SILENT, SILENT, OK, SILENT, SILENT])
    assert attendance.unanswered == 4
    with pytest.raises(ModelError, match="gave no answer 3 times in a row"):
        attendance.note([SILENT])
