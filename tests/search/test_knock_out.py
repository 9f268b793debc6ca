from collections import Counter

import pytest

from rewarddance.core.types import Judgement, Status
from rewarddance.search.knock_out import knock_out

FAILED = Judgement(Status.NON_FINITE, message="nan")


def play_by(strengths, fails=lambda first, second: False, met=None):
    def play(pairings):
        if met is not None:
            met.extend(pairings)
        return [
            FAILED if fails(first, second) else Judgement(Status.OK, reward=float(strengths[second] - strengths[first]))
            for first, second in pairings
        ]

    return play


@pytest.mark.parametrize("players", [2, 3, 5, 8, 13, 16])
def test_the_strongest_wins_after_one_match_less_than_there_are_players(players: int):
    strengths = [(7 * index) % players for index in range(players)]
    tournament = knock_out(players, play_by(strengths))
    assert strengths[tournament.order[0]] == max(strengths)
    assert tournament.matches == players - 1
    assert len(tournament.order) == players


def test_later_rounds_count_more_than_margins():
    # 0 beats 1 by 10; 2 beats 3 by 1 and then 0 by 1: 2 first, 0 second, although 1 lost by more than 3.
    tournament = knock_out(4, play_by([10, 0, 11, 10]))
    assert tournament.order == (2, 0, 3, 1)
    assert [record.wins for record in tournament.records] == [1.0, 0.0, 2.0, 0.0]
    # 0 won by 10 and lost by 1.
    assert tournament.records[0].mean == pytest.approx(4.5)


def test_nobody_waits_twice_in_a_row():
    met: list[tuple[int, int]] = []
    knock_out(7, play_by(range(7), met=met))
    # Of seven, 6 waits first, and plays first in the second round.
    assert met[3][0] == 6


def test_a_tie_goes_to_the_one_shown_first():
    tournament = knock_out(2, play_by([1, 1]))
    assert tournament.order == (0, 1)
    assert [record.wins for record in tournament.records] == [0.5, 0.5]


def test_a_match_without_a_result_puts_nobody_out_and_is_not_played_again():
    met: list[tuple[int, int]] = []
    tournament = knock_out(6, play_by([9, 8, 1, 0, 2, 3], lambda first, second: (first, second) == (0, 1), met))
    # 0 and 1 go on beside 2 and 5, and each wins against one of those.
    assert met == [(0, 1), (2, 3), (4, 5), (0, 2), (1, 5)]
    assert tournament.order[:2] == (0, 1)


def test_two_that_remain_and_cannot_be_compared_are_ordered_by_their_rewards():
    tournament = knock_out(4, play_by([9, 1, 0, 5], lambda first, second: (first, second) == (0, 3)))
    # 0 won by 8 and 3 by 5.
    assert tournament.order == (0, 3, 2, 1)


def test_who_fails_twice_is_out_and_has_no_place():
    met: list[tuple[int, int]] = []
    tournament = knock_out(8, play_by(range(8), lambda first, second: 7 in (first, second), met))
    assert 7 not in tournament.order
    assert tournament.order[0] == 6
    assert tournament.matches <= 8 + 1
    assert Counter(player for pairing in met for player in pairing)[7] == 2
    assert tournament.records[7].last_failure is FAILED


@pytest.mark.parametrize("players", [1, 2, 3, 8, 9])
def test_a_tournament_without_any_result_ends_without_a_winner(players: int):
    tournament = knock_out(players, play_by(range(players), lambda first, second: True))
    assert tournament.order == ()
    assert tournament.matches <= 2 * players
