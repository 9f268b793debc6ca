"""Yes or no from the likely first tokens that a service lists.

A service lists tokens by its own rules: the likeliest twenty, or those that were named to it. Every listed spelling of
an answer counts, as it does in process. What is not listed is not guessed: where the missing spellings could move the
log-odds by more than a little, or an answer is missing altogether, there is no answer.

Source:
    RewardDance, arXiv:2509.08826, Eq. 2, as in `objectives.answer_token`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rewarddance.rewards.answers import AnswerTokens, answer_spellings
from rewarddance.rewards.chat_replies import ChatFailure, FailureKind, TokenChance

_ID_PREFIX = "token_id:"
_ROUNDING = 1e-6
"""Mass by which log-probabilities in float32 may fail to add up to one."""


@dataclass(frozen=True, slots=True)
class ServedAnswer:
    """What the listed tokens say.

    Attributes:
        log_odds: Of yes against no.
        leaked_mass: Probability in [0, 1] outside the listed spellings.
        uncertainty: How much the spellings that are not listed could move the log-odds; 0 when all are.
    """

    log_odds: float
    leaked_mass: float
    uncertainty: float


def served_answer(
    chances: Sequence[TokenChance], answers: AnswerTokens | None, tolerance: float
) -> ServedAnswer | ChatFailure:
    """The answer behind a list of likely first tokens.

    Args:
        chances: Tokens with log-probabilities of the whole vocabulary; by id (`token_id:17`), or as text.
        answers: Ids of every spelling; None where they are unknown, and the service names tokens as text.
        tolerance: Largest `uncertainty` that is accepted, in log-odds.
    """
    by_id = {chance.token: chance.log_probability for chance in chances if chance.token.startswith(_ID_PREFIX)}
    if by_id and answers is not None:
        names = [[f"{_ID_PREFIX}{number}" for number in ids] for ids in (answers.yes_ids, answers.no_ids)]
        yes, no = (_listed(by_id, own) for own in names)
        missing_yes, missing_no = (sum(name not in by_id for name in own) for own in names)
        missing = (missing_yes, missing_no)
    else:
        yes, no = _spelled(chances, "yes"), _spelled(chances, "no")
        missing = (_missing(chances, "yes"), _missing(chances, "no"))
    if not yes or not no:
        absent = " and ".join(word for word, found in (("yes", yes), ("no", no)) if not found)
        return ChatFailure(
            FailureKind.NO_ANSWER, f"{absent} is not among the {len(chances)} tokens that the service lists; allow more"
        )
    answer = _answer(yes, no, missing, [chance.log_probability for chance in chances])
    if answer.uncertainty > tolerance:
        return ChatFailure(
            FailureKind.NO_ANSWER,
            f"spellings outside the {len(chances)} tokens that the service lists could move the log-odds by "
            f"{answer.uncertainty:.2g}; allow more",
        )
    return answer


def _answer(
    yes: Sequence[float], no: Sequence[float], missing: tuple[int, int], listed: Sequence[float]
) -> ServedAnswer:
    log_yes, log_no = _log_sum(yes), _log_sum(no)
    # A list of the likeliest tokens is a ceiling for every other one, and so is what is left of the mass. One listed
    # token is no such ceiling: the one that was drawn is listed too, however unlikely it was.
    left = max(0.0, 1.0 - math.fsum(math.exp(value) for value in listed)) + _ROUNDING
    ceiling = min([left, *(math.exp(value) for value in sorted(listed)[1:2])])
    gaps = [
        math.log1p(count * ceiling / math.exp(found)) if count else 0.0
        for count, found in zip(missing, (log_yes, log_no), strict=True)
    ]
    leaked = 1.0 - math.exp(min(_log_sum([log_yes, log_no]), 0.0))
    return ServedAnswer(log_yes - log_no, leaked, max(gaps))


def _listed(by_id: dict[str, float], names: Sequence[str]) -> list[float]:
    return [by_id[name] for name in names if by_id.get(name, -math.inf) > _NOTHING]


def _spelled(chances: Sequence[TokenChance], word: str) -> list[float]:
    # Two ids may be spelled alike, and each has a chance of its own.
    known = answer_spellings(word)
    return [chance.log_probability for chance in chances if chance.token in known and chance.log_probability > _NOTHING]


def _missing(chances: Sequence[TokenChance], word: str) -> int:
    return len(set(answer_spellings(word)) - {chance.token for chance in chances})


_NOTHING = -700.0
"""Below this a probability is 0 in double precision; services write -9999 for none."""


def _log_sum(values: Sequence[float]) -> float:
    highest = max(values)
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))
