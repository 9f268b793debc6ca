"""What a search asks a reward model: a score for each picture, or a tournament among them.

A picture that cannot be judged has no place in the order: it never wins, and no number stands in for the verdict.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rewarddance.core.choices import require_choice
from rewarddance.core.errors import UsageError
from rewarddance.core.media import MediaSource
from rewarddance.core.types import Judgement, JudgementRequest, Ranking, Status
from rewarddance.search.budget import Meter
from rewarddance.search.knock_out import Pairing, knock_out
from rewarddance.search.pictures import is_whole, picture_of
from rewarddance.search.results import Opinion

Way: TypeAlias = Literal["score", "round_robin", "knock_out"]
"""One score a picture; every pair, O(N^2); or losers drop out, O(N), which finds the best one only."""

BROKEN = "broken_picture"

_NOT_FINITE = Opinion(None, status=BROKEN, message="the picture has pixels that are not finite")
_ALONE = Opinion(None, status=Status.FAILED.value, message="there is no other picture to compare it with")


@runtime_checkable
class Judge(Protocol):
    """The part of a reward model that a search needs; see `RewardModel`."""

    def judge(self, requests: Sequence[JudgementRequest]) -> list[Judgement]:
        """One judgement a request, in order."""

    def rank(self, prompt: str, candidates: Sequence[MediaSource], instruction: str | Path | None = None) -> Ranking:
        """Candidates by pairwise win count."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A reward model and how it is asked.

    Attributes:
        model: Any reward model. A pairwise one scores against references, or holds tournaments.
        way: Scores, or which kind of tournament.
        instruction: Name or file of criteria; None for the model's own.
        references: Reference images by prompt, for scores; several are shown as the model's reference mode says.
    """

    model: Judge
    way: Way = "score"
    instruction: str | Path | None = None
    references: Mapping[str, Sequence[MediaSource]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_choice("way to verify named", self.way, get_args(Way))
        if self.references and self.way != "score":
            raise UsageError("a tournament compares candidates with each other; leave the references out")

    def judgements(self, pictures: int) -> int:
        """How many are asked to verify so many pictures, if none of them fails."""
        match self.way:
            case "score":
                return pictures
            case "round_robin":
                return pictures * (pictures - 1) // 2
            case "knock_out":
                return pictures - 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of some pictures.

    Attributes:
        opinions: One a picture.
        order: Indices of the pictures that were judged, best first.
    """

    opinions: tuple[Opinion, ...]
    order: tuple[int, ...]

    @property
    def problem(self) -> str | None:
        """Why none of the pictures can win, in one line; None when one can."""
        if self.order:
            return None
        causes = sorted({opinion.message or opinion.status for opinion in self.opinions})
        return f"none of {len(self.opinions)} pictures could be judged: {'; '.join(causes[:2])}"


def judged(model: Judge, requests: Sequence[JudgementRequest]) -> list[Judgement]:
    """One judgement a request; a reward that is no finite number is none, or it would win.

    Raises:
        UsageError: The model gave something else than one judgement a request.
    """
    given = list(model.judge(requests))
    if len(given) != len(requests):
        raise UsageError(f"the judge gave {len(given)} judgements for {len(requests)} requests; it owes one for each")
    for one in given:
        if not isinstance(one, Judgement):
            raise UsageError(f"the judge gave {type(one).__name__} where a Judgement with its reward is due")
    return [_whole(one) for one in given]


def _whole(judgement: Judgement) -> Judgement:
    if judgement.reward is None or math.isfinite(judgement.reward):
        return judgement
    message = f"the reward is {float(judgement.reward)}, which is no finite number"
    return replace(judgement, status=Status.NON_FINITE, score=None, reward=None, message=message)


def verify(verifier: Verifier, prompt: str, pixels: Float[Tensor, "pictures 3 height width"], meter: Meter) -> Verdict:
    """Judge pictures of one prompt.

    Args:
        verifier: Whom to ask, and how.
        prompt: What the pictures are to show.
        pixels: As `Bench.pictures` makes them.
        meter: Counts the judgements.
    """
    whole = [place for place, picture in enumerate(pixels) if is_whole(picture)]
    images = [picture_of(pixels[place]) for place in whole]
    verdict = _WAYS[verifier.way](verifier, prompt, images, meter) if images else Verdict((), ())
    opinions = [_NOT_FINITE] * len(pixels)
    for place, opinion in zip(whole, verdict.opinions, strict=True):
        opinions[place] = opinion
    return Verdict(tuple(opinions), tuple(whole[index] for index in verdict.order))


def _scores(verifier: Verifier, prompt: str, images: Sequence[Image.Image], meter: Meter) -> Verdict:
    references = tuple(verifier.references.get(prompt, ()))
    against = references[0] if len(references) == 1 else references or None
    requests = [JudgementRequest(prompt, image, against, verifier.instruction) for image in images]
    judgements = judged(verifier.model, requests)
    meter.count(judgements=len(requests))
    opinions = tuple(_failure(one) if one.reward is None else Opinion(one.reward) for one in judgements)
    rewards = {index: opinion.reward for index, opinion in enumerate(opinions) if opinion.reward is not None}
    return Verdict(opinions, tuple(sorted(rewards, key=lambda index: (-rewards[index], index))))


def _round_robin(verifier: Verifier, prompt: str, images: Sequence[Image.Image], meter: Meter) -> Verdict:
    ranking = verifier.model.rank(prompt, images, verifier.instruction)
    # A service keeps its judgements.
    meter.count(judgements=len(ranking.judgements) or verifier.judgements(len(images)))
    pairs = combinations(range(len(images)), 2) if ranking.judgements else ()
    failures: dict[int, Judgement] = {}
    for pair, judgement in zip(pairs, ranking.judgements, strict=True):
        if judgement.reward is None:
            failures |= dict.fromkeys(pair, judgement)
    opinions = []
    for index, (reward, wins) in enumerate(zip(ranking.rewards, ranking.wins, strict=True)):
        if reward is None:
            opinions.append(_failure(failures.get(index)))
        elif not math.isfinite(reward):
            opinions.append(_failure(_whole(Judgement(Status.OK, reward=reward))))
        else:
            opinions.append(Opinion(reward, wins))
    return Verdict(tuple(opinions), tuple(index for index in ranking.order if opinions[index].reward is not None))


def _knock_out(verifier: Verifier, prompt: str, images: Sequence[Image.Image], meter: Meter) -> Verdict:
    def play(pairings: Sequence[Pairing]) -> list[Judgement]:
        meter.count(judgements=len(pairings))
        requests = [
            JudgementRequest(prompt, images[second], images[first], verifier.instruction) for first, second in pairings
        ]
        return judged(verifier.model, requests)

    tournament = knock_out(len(images), play)
    opinions = tuple(
        Opinion(record.mean, record.wins) if record.rewards else _failure(record.last_failure)
        for record in tournament.records
    )
    return Verdict(opinions, tournament.order)


def _failure(judgement: Judgement | None) -> Opinion:
    if judgement is None:
        return _ALONE
    return replace(_ALONE, status=judgement.status.value, message=judgement.message)


_WAYS = {"score": _scores, "round_robin": _round_robin, "knock_out": _knock_out}
