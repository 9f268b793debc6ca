"""A knock-out tournament: the best of N in N - 1 matches.

In each round survivors meet in pairs and the loser is out; with an odd number, one waits, and plays in the next round.
A tie goes to the one shown first. A match without a result puts nobody out: the two do not meet again, and play others
in the next round. Who has no result twice is out. Two that remain and cannot be compared are ordered by their rewards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rewarddance.core.types import Judgement

Pairing = tuple[int, int]
"""The one shown first, and the one asked about."""

_ALLOWED_FAILURES = 1


@dataclass(slots=True)
class Record:
    """How a player did.

    Attributes:
        rounds: Survived.
        rewards: Log-odds against each opponent met, from this player's side.
        failed_against: Opponents with whom a match had no result.
        last_failure: The latest of them.
    """

    rounds: int = 0
    rewards: list[float] = field(default_factory=list)
    failed_against: set[int] = field(default_factory=set)
    last_failure: Judgement | None = None

    @property
    def wins(self) -> float:
        """Opponents beaten, ties counting one half."""
        return float(sum(1.0 if reward > 0 else 0.5 if reward == 0 else 0.0 for reward in self.rewards))

    @property
    def mean(self) -> float:
        """Mean log-odds; there is at least one."""
        return sum(self.rewards) / len(self.rewards)


@dataclass(frozen=True, slots=True)
class Tournament:
    """A finished tournament.

    Attributes:
        records: Of every player.
        order: Players with at least one result, best first: by rounds survived, then by mean log-odds.
        matches: How many were played; players less one, and at most one more for each that failed.
    """

    records: tuple[Record, ...]
    order: tuple[int, ...]
    matches: int


def knock_out(players: int, play: Callable[[Sequence[Pairing]], Sequence[Judgement]]) -> Tournament:
    """Hold a tournament.

    Args:
        players: How many.
        play: Judges the matches of a round; a positive reward means that the second of a pairing wins.
    """
    records = [Record() for _ in range(players)]
    pairings, standing = _paired(list(range(players)), records)
    matches = 0
    while pairings:
        for pairing, judgement in zip(pairings, play(pairings), strict=True):
            standing += _survivors(pairing, judgement, records)
        matches += len(pairings)
        for player in standing:
            records[player].rounds += 1
        pairings, standing = _paired(standing, records)
    judged = [player for player in range(players) if records[player].rewards]
    order = sorted(judged, key=lambda player: (-records[player].rounds, -records[player].mean, player))
    return Tournament(tuple(records), tuple(order), matches)


def _paired(standing: Sequence[int], records: Sequence[Record]) -> tuple[list[Pairing], list[int]]:
    """Who meets whom, and who waits: in the order of the row, but never two that could not be compared."""
    pairings: list[Pairing] = []
    waiting: list[int] = []
    row = list(standing)
    while row:
        player = row.pop(0)
        opponent = next((other for other in row if other not in records[player].failed_against), None)
        if opponent is None:
            waiting.append(player)
        else:
            row.remove(opponent)
            pairings.append((player, opponent))
    return pairings, waiting


def _survivors(pairing: Pairing, judgement: Judgement, records: Sequence[Record]) -> list[int]:
    """Notes a match, and says who goes on."""
    first, second = pairing
    if judgement.reward is None:
        for player, other in ((first, second), (second, first)):
            records[player].failed_against.add(other)
            records[player].last_failure = judgement
        return [player for player in pairing if len(records[player].failed_against) <= _ALLOWED_FAILURES]
    records[first].rewards.append(-judgement.reward)
    records[second].rewards.append(judgement.reward)
    return [second if judgement.reward > 0 else first]
