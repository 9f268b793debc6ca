"""Whether a service gives the scores that the same model gives in process.

A service answers with confidence whatever it was started with: other weights, a quantised copy, another chat
template, another image size. Its scores then look like scores. A few questions whose log-odds are known tell; kept in a
file, they tell it again at the start of every run, without the weights.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pydantic import TypeAdapter, ValidationError

from rewarddance.core.errors import DataError, ModelError
from rewarddance.core.files import write_json_atomic
from rewarddance.core.types import Comparison, Judgement, JudgementRequest

DEFAULT_LIMIT = 0.02
"""Largest difference of scores that passes; room for bfloat16 on one side and other kernels on the other."""

PARITY_BEGINS = '[\n  {\n    "prompt":'

_log = logging.getLogger(__name__)

_STEEPEST = 0.25  # of the sigmoid, at log-odds 0
_LOG_ODDS_SHARE = 0.02  # of the log-odds themselves, which are rounded relative to their size


@runtime_checkable
class ParityJudge(Protocol):
    """The part of a reward model, local or served, that is asked here."""

    def judge(self, requests: Sequence[JudgementRequest], order_mode: Literal["one"]) -> list[Judgement]:
        """One judgement a request, in order, each from a single question."""


@dataclass(frozen=True, slots=True)
class ParityQuestion:
    """A question whose answer is known.

    Attributes:
        prompt: The text that asked for the media.
        candidate: Absolute path of the medium that is judged.
        reference_image: Absolute path of what it is judged against; None for a model that needs none.
        source_media: Absolute path of what an edit starts from, if there is one.
        log_odds: The model's answer in process.
    """

    prompt: str
    candidate: str
    reference_image: str | None
    source_media: str | None
    log_odds: float


@dataclass(frozen=True, slots=True)
class ParityAnswer:
    """What the service said to it; None and a message where it said nothing usable."""

    log_odds: float | None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Known and served answers side by side.

    Attributes:
        questions: With their known answers.
        answers: Of the service, in the same order.
        limit: Largest difference of scores, in [0, 1], that passes.
    """

    questions: tuple[ParityQuestion, ...]
    answers: tuple[ParityAnswer, ...]
    limit: float

    @property
    def largest_score_difference(self) -> float | None:
        """Of the questions that the service answered; None when it answered none."""
        return max((abs(_score(known) - _score(served)) for known, served in self._pairs()), default=None)

    @property
    def largest_log_odds_difference(self) -> float | None:
        """The same before the sigmoid, which hides differences of sure answers."""
        return max((abs(known - served) for known, served in self._pairs()), default=None)

    @property
    def failures(self) -> tuple[str, ...]:
        """What the service said instead of an answer."""
        return tuple(answer.message or "no answer" for answer in self.answers if answer.log_odds is None)

    @property
    def is_passed(self) -> bool:
        """Whether every question was answered alike.

        No score differs by more than the limit, and no log-odds by more than that is worth where the sigmoid is
        steepest, plus 2 % of themselves: rewards are log-odds, and near 0 and 1 scores hide their differences.
        """
        pairs = self._pairs()
        return not self.failures and bool(pairs) and all(self._are_alike(known, served) for known, served in pairs)

    def _are_alike(self, known: float, served: float) -> bool:
        allowed = self.limit / _STEEPEST + _LOG_ODDS_SHARE * abs(known)
        return abs(_score(known) - _score(served)) <= self.limit and abs(known - served) <= allowed

    def _pairs(self) -> list[tuple[float, float]]:
        both = zip(self.questions, self.answers, strict=True)
        return [(question.log_odds, answer.log_odds) for question, answer in both if answer.log_odds is not None]


def known_answers(local: ParityJudge, comparisons: Sequence[Comparison], *, is_pairwise: bool) -> list[ParityQuestion]:
    """Two questions a comparison, answered in process.

    Args:
        local: The model.
        comparisons: What it is asked about; both orders (pairwise), or both media (pointwise).
        is_pairwise: Whether it judges against a reference image.

    Raises:
        ModelError: It has no answer to one of them; the message says why.
        DataError: There are no comparisons.
    """
    if not comparisons:
        raise DataError("there are no comparisons to ask about; give a folder with some")
    shown = [one for comparison in comparisons for one in (comparison, comparison.swapped())]
    requests = [
        JudgementRequest(
            one.prompt, one.second, one.first if is_pairwise else None, id=one.id, source_media=one.source_media
        )
        for one in shown
    ]
    questions = []
    for one, judgement in zip(shown, local.judge(requests, order_mode="one"), strict=True):
        if judgement.reward is None:
            raise ModelError(f"comparison {one.id}: {judgement.message}; parity needs questions that can be answered")
        questions.append(
            ParityQuestion(
                one.prompt,
                str(one.second.path),
                str(one.first.path) if is_pairwise else None,
                None if one.source_media is None else str(one.source_media.path),
                judgement.reward,
            )
        )
    return questions


def served_parity(served: ParityJudge, questions: Sequence[ParityQuestion], limit: float) -> ParityReport:
    """Put questions with known answers to a service."""
    requests = [
        JudgementRequest(one.prompt, one.candidate, one.reference_image, source_media=one.source_media)
        for one in questions
    ]
    answers = [ParityAnswer(one.reward, one.message) for one in served.judge(requests, order_mode="one")]
    return ParityReport(tuple(questions), tuple(answers), limit)


def write_parity(path: Path, questions: Sequence[ParityQuestion]) -> None:
    """Keep questions with their answers, to ask a service before a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, [asdict(question) for question in questions])


def read_parity(path: Path) -> list[ParityQuestion]:
    """Questions with their answers.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        found = TypeAdapter(list[ParityQuestion]).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; `rewarddance parity --out` writes such a file") from None
    except (ValueError, ValidationError):
        raise DataError(f"{path} holds no answers of a model; write it again with `rewarddance parity --out`") from None
    if not found or not all(math.isfinite(question.log_odds) for question in found):
        raise DataError(f"{path} holds no usable answers; write it again with `rewarddance parity --out`")
    return found


def check_parity(name: str, served: ParityJudge, path: Path | None, limit: float, setting: str) -> None:
    """Go on with a service that gives the scores that are known; of one without known scores, people are told so.

    Args:
        name: Of the service, for messages.
        served: Asks it.
        path: What `write_parity` wrote; None trusts the service.
        limit: Largest difference of scores.
        setting: What names the file, for the warning.

    Raises:
        ModelError: A score differs by more, or the service does not answer.
        DataError: The file cannot be used.
    """
    if path is None:
        _log.warning(
            "%s is trusted to score as the model itself does: other weights, chat templates or image sizes "
            "would show nowhere; `rewarddance parity --out FILE` compares them, and %s names that file",
            name,
            setting,
        )
        return
    require_parity(name, served, path, limit)


def require_parity(name: str, served: ParityJudge, path: Path, limit: float) -> None:
    """Go on only with a service that gives the scores that are known.

    Args:
        name: Of the service, for the message.
        served: Asks it.
        path: What `write_parity` wrote.
        limit: Largest difference of scores.

    Raises:
        ModelError: A score differs by more, or the service does not answer.
        DataError: The file cannot be used.
    """
    report = served_parity(served, read_parity(path), limit)
    if report.failures:
        raise ModelError(f"{name} does not answer questions whose answers are known: {report.failures[0]}")
    if not report.is_passed:
        raise ModelError(
            f"{name} scores differ by {report.largest_score_difference:.2g} (log-odds by "
            f"{report.largest_log_odds_difference:.2g}) from those in {path}, over the limit of {limit:g}: "
            "it serves other weights, another chat template or other image sizes"
        )


def _score(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-log_odds)) if log_odds >= 0 else 1.0 - 1.0 / (1.0 + math.exp(log_odds))
