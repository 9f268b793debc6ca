import math

import pytest

from rewarddance.rewards.answers import AnswerTokens
from rewarddance.rewards.chat_replies import ChatFailure, FailureKind, TokenChance
from rewarddance.rewards.served_answers import served_answer

ANSWERS = AnswerTokens(yes_ids=(1, 2), no_ids=(3, 4))


def chances(**masses: float) -> list[TokenChance]:
    return [TokenChance(name.replace("_", " "), math.log(mass)) for name, mass in masses.items()]


def by_id(masses: dict[int, float]) -> list[TokenChance]:
    return [TokenChance(f"token_id:{number}", math.log(mass)) for number, mass in masses.items()]


def test_every_spelling_that_is_listed_counts():
    found = served_answer(chances(yes=0.3, Yes=0.3, _yes=0.1, no=0.1, NO=0.1, maybe=0.1), None, tolerance=1.0)

    # 0.7 of yes against 0.2 of no; 0.1 is neither.
    assert found.log_odds == pytest.approx(math.log(0.7 / 0.2))
    assert found.leaked_mass == pytest.approx(0.1)


def test_token_ids_name_the_spellings_exactly():
    found = served_answer(by_id({1: 0.3, 2: 0.2, 3: 0.3, 4: 0.1, 9: 0.1}), ANSWERS, tolerance=0.0)

    assert found.log_odds == pytest.approx(math.log(0.5 / 0.4))
    assert found.uncertainty == 0.0


def test_a_token_that_is_listed_twice_by_id_counts_once():
    listed = [*by_id({1: 0.3, 2: 0.2, 3: 0.3, 4: 0.1}), TokenChance("token_id:1", math.log(0.3))]

    assert served_answer(listed, ANSWERS, tolerance=0.0).log_odds == pytest.approx(math.log(0.5 / 0.4))


def test_two_tokens_that_are_spelled_alike_both_count():
    listed = [*chances(yes=0.2, no=0.4), TokenChance("yes", math.log(0.2))]

    assert served_answer(listed, None, tolerance=10.0).log_odds == pytest.approx(0.0)


@pytest.mark.parametrize("listed", [chances(yes=0.9, maybe=0.1), chances(no=0.9), chances(maybe=1.0), by_id({9: 0.5})])
def test_an_answer_that_is_not_listed_is_not_guessed(listed: list[TokenChance]):
    found = served_answer(listed, ANSWERS, tolerance=100.0)

    assert isinstance(found, ChatFailure)
    assert found.kind is FailureKind.NO_ANSWER


def test_the_stand_in_for_impossible_is_no_chance():
    listed = [*by_id({1: 0.5, 3: 0.4}), TokenChance("token_id:2", -9999.0), TokenChance("token_id:4", -9999.0)]

    found = served_answer(listed, ANSWERS, tolerance=0.01)

    assert found.log_odds == pytest.approx(math.log(0.5 / 0.4))


def test_spellings_outside_the_list_that_could_matter_make_it_a_failure():
    # The unlisted spellings of no may each have up to 0.01, which is as much as the listed one.
    listed = chances(yes=0.6, no=0.01, maybe=0.01)

    assert isinstance(served_answer(listed, None, tolerance=0.01), ChatFailure)


def test_spellings_outside_the_list_that_cannot_matter_are_let_pass():
    listed = chances(yes=0.6, no=0.4 - 1e-5, maybe=1e-6)

    found = served_answer(listed, None, tolerance=0.01)

    assert found.log_odds == pytest.approx(math.log(0.6 / 0.4), abs=1e-3)
    assert 0 < found.uncertainty < 0.01


@pytest.mark.parametrize("token", ["yes.", "yess", "y", "\nyes", "YeS", ""])
def test_what_is_no_spelling_of_an_answer_does_not_count(token: str):
    listed = [*chances(no=0.5), TokenChance(token, math.log(0.5))]

    assert isinstance(served_answer(listed, None, tolerance=100.0), ChatFailure)


def test_the_token_that_was_drawn_is_no_ceiling_for_tokens_outside_the_list():
    # Of two likeliest tokens and the one that was drawn, which has 1e-9: spellings of no between them are not listed.
    listed = chances(yes=0.8, no=0.02, maybe=1e-9)

    assert isinstance(served_answer(listed, None, tolerance=0.01), ChatFailure)


def test_a_spelling_that_is_listed_as_impossible_is_not_missing():
    listed = [*by_id({1: 0.5, 3: 0.05}), TokenChance("token_id:2", -9999.0), TokenChance("token_id:4", -3.0)]

    # Everything that was asked for is there, so what is not listed moves nothing.
    assert served_answer(listed, ANSWERS, tolerance=0.0).uncertainty == 0.0
