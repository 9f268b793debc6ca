"""A vision-language model that somebody else holds in memory: questions go to a service, log-odds come back.

The question is the same as in process, piece by piece; the service writes it in its model's chat format and prepares
the images itself. Images travel as PNG files, which lose nothing.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import nn

from rewarddance.core.errors import ModelError
from rewarddance.core.types import JudgementCost, Status
from rewarddance.rewards.answers import AnswerTokens
from rewarddance.rewards.backbones.kept_pictures import KeptPictures
from rewarddance.rewards.backbones.protocol import AttentionMode, Picture
from rewarddance.rewards.chat_endpoint import ChatEndpoint, ChatOutcome, ChatRequest
from rewarddance.rewards.chat_replies import ChatFailure, FailureKind
from rewarddance.rewards.judging import Answer, Failure
from rewarddance.rewards.png_files import png_file
from rewarddance.rewards.questions import Question
from rewarddance.rewards.served_answers import served_answer

# The service did answer, and would answer the same again; every other failure may be mended between two runs.
_ABOUT_THE_QUESTION = (FailureKind.REFUSED, FailureKind.REJECTED, FailureKind.CUT_SHORT, FailureKind.NO_ANSWER)

_NOT_HERE = "the model is behind a service, which gives judgements only; load its folder for everything else"


@dataclass(frozen=True, slots=True)
class ServedSettings:
    """How log-odds are got from a service.

    Attributes:
        top_log_probabilities: Likely tokens that are asked for; services allow 20 unless told otherwise.
        names_tokens: Whether the answers' token ids are sent along (`logprob_token_ids`). vLLM then lists exactly
            them and older ones ignore it; vendors that refuse unknown fields need it off.
        tolerance: Largest error, in log-odds, that spellings outside the list may cause.
    """

    top_log_probabilities: int = 20
    names_tokens: bool = True
    tolerance: float = 0.01


DEFAULT_SERVED = ServedSettings()


class ServedBackbone:
    """Implements as much of `Backbone` as judging needs, and `AnswersItself`."""

    family = "served"

    def __init__(self, endpoint: ChatEndpoint, answers: AnswerTokens | None, settings: ServedSettings) -> None:
        """Open nothing; the endpoint is the caller's to close.

        Args:
            endpoint: The service.
            answers: Token ids of yes and no; None where nobody knows them here.
            settings: How log-odds are got.
        """
        self.model: nn.Module = nn.Module()
        self.tokenizer: Any = None
        self.kept_pictures = KeptPictures()
        self.attention: AttentionMode = "causal"  # the service's own affair
        self._endpoint = endpoint
        self._answers = answers
        self._settings = settings

    def answer(self, questions: Sequence[Question]) -> dict[tuple[str, ...], Answer | Failure]:
        """Answers by question key; a question without an answer has the kind of failure in its message."""
        outcomes = self._endpoint.ask([self._request(question) for question in questions])
        return {question.key: self._read(outcome) for question, outcome in zip(questions, outcomes, strict=True)}

    def picture_from_image(self, image: Image) -> Picture:
        """The bytes of a PNG file of the image."""
        return Picture(torch.frombuffer(bytearray(png_file(image)), dtype=torch.uint8), 0, image.size)

    @property
    def max_tokens(self) -> int:
        """No limit here: a service refuses a question that is too long for its model."""
        return sys.maxsize

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise ModelError(_NOT_HERE)

    # What needs weights, tokenizer or preprocessing; the service has them.
    pictures_from_pixels = _refuse
    encode = _refuse
    collate = _refuse
    collate_to_learn = _refuse
    answer_hidden = _refuse
    answer_states = _refuse
    last_hidden = _refuse
    begin = _refuse
    picture_vectors = _refuse
    label_rows = _refuse
    set_image_limits = _refuse
    save = _refuse

    def _request(self, question: Question) -> ChatRequest:
        extra: dict[str, Any] = {}
        if self._settings.names_tokens and self._answers is not None:
            extra = {"logprob_token_ids": list(self._answers.label_ids), "return_tokens_as_token_ids": True}
        return ChatRequest(
            parts=tuple(part if isinstance(part, str) else _file_of(part) for part in question.parts),
            max_tokens=1,
            must_finish=False,
            top_log_probabilities=self._settings.top_log_probabilities,
            extra=extra,
        )

    def _read(self, outcome: ChatOutcome) -> Answer | Failure:
        if isinstance(outcome, ChatFailure):
            return _failure(outcome)
        found = served_answer(outcome.first_token, self._answers, self._settings.tolerance)
        if isinstance(found, ChatFailure):
            return _failure(found)
        cost = JudgementCost(questions=1, read_tokens=outcome.prompt_tokens or 0)
        return Answer(found.log_odds, found.leaked_mass, cost=cost)


def _failure(failure: ChatFailure) -> Failure:
    times = "" if failure.tries == 1 else f" ({failure.tries} tries)"
    status = Status.FAILED if failure.kind in _ABOUT_THE_QUESTION else Status.UNANSWERED
    return Failure(status, f"{failure.kind.value}: {failure.message}{times}")


def _file_of(picture: Picture) -> bytes:
    return picture.pixel_values.numpy().tobytes()
