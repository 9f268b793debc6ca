import pytest

from rewarddance.core.types import Status
from rewarddance.evaluation.judgement_rows import Answer, JudgementRow
from rewarddance.lab.written_reasons import words_right

FIRST_IS_BETTER = "image 1 has everything. image 2 has much blur."
SECOND_IS_BETTER = "image 1 has much blur. image 2 has everything."
ALIKE = "image 1 has blur. image 2 has blur."


def row(forward, backward, gold, split="in domain", status=Status.OK):
    answers = [Answer(status, 0.0 if status is Status.OK else None, rationale=words) for words in (forward, backward)]
    return JudgementRow("a", "k", "c", "a cross", ("1.png", "2.png"), *answers, gold=gold, facets={"split": split})


@pytest.mark.parametrize(
    ("one", "share"),
    [
        (row(SECOND_IS_BETTER, FIRST_IS_BETTER, 0.3), 1.0),
        (row(FIRST_IS_BETTER, SECOND_IS_BETTER, -0.3), 1.0),
        (row(SECOND_IS_BETTER, SECOND_IS_BETTER, 0.3), 0.5),
        (row(ALIKE, ALIKE, 0.3), 0.5),
        (row(ALIKE, None, 0.3), 0.25),
        (row(SECOND_IS_BETTER, FIRST_IS_BETTER, 0.3, status=Status.UNFINISHED_RATIONALE), 0.0),
    ],
)
def test_words_are_right_when_they_speak_for_the_better_picture_where_it_is_shown(one, share):
    assert words_right({0: [one]}, "test_in") == {"mean": share, "low": None, "high": None}


def test_only_clear_comparisons_of_the_split_count():
    rows = [
        row(SECOND_IS_BETTER, FIRST_IS_BETTER, 0.3),
        row(ALIKE, ALIKE, 0.05),
        row(ALIKE, ALIKE, 0.3, "out of domain"),
    ]
    assert words_right({0: rows}, "test_in")["mean"] == 1.0
    assert words_right({0: rows[1:2]}, "test_in") is None


def test_seeds_make_the_interval():
    right, wrong = row(SECOND_IS_BETTER, FIRST_IS_BETTER, 0.3), row(FIRST_IS_BETTER, SECOND_IS_BETTER, 0.3)
    found = words_right({0: [right], 1: [right, wrong]}, "test_in")
    assert found["mean"] == 0.75
    assert found["low"] < 0.75 < found["high"]
