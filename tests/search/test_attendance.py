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


@pytest.mark.parametrize("batches", [[[REFUSED, OK]], [[REFUSED], [OK]], [[REFUSED] * 4, [OK, REFUSED]]])
def test_an_answer_makes_the_refusals_before_it_final(batches):
    attendance = Attendance(patience=5)
    for batch in batches:
        attendance.note(batch)
    assert attendance.end_prompt() == 0


def test_each_prompt_lacks_its_own_answers():
    attendance = Attendance()
    attendance.note([REFUSED, SILENT])
    assert attendance.end_prompt() == 2
    attendance.note([OK, SILENT])
    assert attendance.end_prompt() == 1
    assert attendance.end_prompt() == 0


def test_a_judge_that_answered_in_an_earlier_run_may_refuse_everything():
    attendance = Attendance(patience=5, has_answered=True)
    attendance.note([REFUSED] * 20)
    assert attendance.end_prompt() == 0


def test_a_judge_that_falls_silent_has_gone():
    attendance = Attendance(patience=3)
    attendance.note([OK, SILENT, SILENT, OK, SILENT, SILENT])
    assert attendance.unanswered == 4
    with pytest.raises(ModelError, match="gave no answer 3 times in a row"):
        attendance.note([SILENT])
