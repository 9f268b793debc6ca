"""From the body of a request to work for the engine: typed, counted, and with every header of every medium checked."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from rewarddance.core.types import JudgementRequest
from rewarddance.serving.bodies import Body
from rewarddance.serving.engine import EngineFacts
from rewarddance.serving.fetching import Fetcher
from rewarddance.serving.incoming_media import read_medium
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.refusals import RefusalCode, RefusedError
from rewarddance.serving.schemas import ChatBody, ChatMessage, JudgeBody, RankBody, TextPart
from rewarddance.serving.work import ChatPiece, ChatWork, JudgeWork, RankWork, Work

_Some = TypeVar("_Some", bound=BaseModel)
_Reader = Callable[[str, str], bytes]

_COMMAS_OF_STRUCTURE = 1_024
"""Between the values of a body: a hundred at most; the rest stand in a prompt."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request asks for.

    Attributes:
        work: For the engine.
        seconds: In which the client wants the answer; None for the service's own deadline.
    """

    work: Work
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Planner:
    """Makes plans; decodes headers and may fetch, so it runs in a thread.

    Attributes:
        engine: Of the model that the plans are for.
        limits: Counts and sizes.
        fetcher: For media that are addresses.
        started: When the body was there, on the monotonic clock; a client's deadline counts from then.
    """

    engine: EngineFacts
    limits: ServiceLimits
    fetcher: Fetcher
    started: float = math.inf

    def judge(self, body: Body) -> Plan:
        """The plan of `/v1/judge`.

        Raises:
            RefusedError: The body is not a request that this service takes.
        """
        asked = self._parsed(JudgeBody, body)
        self._check_words(asked.prompt, asked.instruction)
        if len(asked.reference_images) > self.limits.max_references:
            raise RefusedError(RefusalCode.TOO_MANY_MEDIA, "reference_images")
        if self.engine.needs_reference and not asked.reference_images:
            raise RefusedError(RefusalCode.REFERENCE_REQUIRED, "reference_images")
        medium = self._reader(asked.deadline_seconds, body)
        candidate = medium(asked.candidate, "candidate")
        references = tuple(medium(one, "reference_images") for one in asked.reference_images)
        source = None if asked.source_media is None else medium(asked.source_media, "source_media")
        request = JudgementRequest(
            asked.prompt,
            candidate,
            (references[0] if len(references) == 1 else references) if references else None,
            asked.instruction,
            source_media=source,
        )
        return Plan(JudgeWork(request, asked.order_mode), asked.deadline_seconds)

    def rank(self, body: Body) -> Plan:
        """The plan of `/v1/rank`; as `judge`."""
        asked = self._parsed(RankBody, body)
        self._check_words(asked.prompt, asked.instruction)
        if len(asked.candidates) > self.limits.max_candidates:
            raise RefusedError(RefusalCode.TOO_MANY_MEDIA, "candidates")
        medium = self._reader(asked.deadline_seconds, body)
        candidates = tuple(medium(one, "candidates") for one in asked.candidates)
        return Plan(RankWork(asked.prompt, candidates, asked.instruction), asked.deadline_seconds)

    def chat(self, body: Body) -> Plan:
        """The plan of `/v1/chat/completions`; as `judge`."""
        asked = self._parsed(ChatBody, body)
        is_one_user_turn = len(asked.messages) == 1 and asked.messages[0].role == "user"
        if not (self.engine.can_chat and is_one_user_turn and asked.n == 1 and not asked.stream):
            raise RefusedError(RefusalCode.UNSUPPORTED)
        pieces = self._pieces(asked.messages[0], self._reader(asked.deadline_seconds, body))
        if sum(len(piece) for piece in pieces if isinstance(piece, str)) > self.limits.max_prompt_characters:
            raise RefusedError(RefusalCode.TOO_LONG, "messages")
        work = ChatWork(
            pieces,
            asked.top_logprobs if asked.logprobs else 0,
            asked.temperature or 0.0,
            asked.seed,
            tuple(asked.logprob_token_ids or ()) if asked.logprobs else (),
            asked.return_tokens_as_token_ids,
        )
        return Plan(work, asked.deadline_seconds)

    def _pieces(self, message: ChatMessage, medium: _Reader) -> tuple[ChatPiece, ...]:
        if isinstance(message.content, str):
            return (message.content,)
        images = [part for part in message.content if not isinstance(part, TextPart)]
        if len(images) > self.limits.max_chat_media:
            raise RefusedError(RefusalCode.TOO_MANY_MEDIA, "messages")
        return tuple(
            part.text if isinstance(part, TextPart) else medium(part.image_url.url, "messages")
            for part in message.content
        )

    def _reader(self, seconds: float | None, body: Body) -> _Reader:
        """Reads the media of a body, addresses only until the client gives up."""
        fetcher = replace(self.fetcher, ends_at=self.started + self.limits.seconds_for(seconds))
        return lambda reference, field: read_medium(reference, body.parts, self.limits.media, fetcher, field)

    def _check_words(self, prompt: str, instruction: str | None) -> None:
        if len(prompt) > self.limits.max_prompt_characters:
            raise RefusedError(RefusalCode.TOO_LONG, "prompt")
        # A name and never a file: criteria of a client's own would be its words in the model's mouth.
        if instruction is not None and instruction not in self.engine.instructions:
            raise RefusedError(RefusalCode.UNKNOWN_INSTRUCTION, "instruction")

    def _parsed(self, schema: type[_Some], body: Body) -> _Some:
        # Every small thing of a body becomes an object, and every wrong one a description of its own: a list of
        # millions of numbers, which a body has room for, would cost minutes and gigabytes.
        if body.json.count(b",") > self.limits.max_prompt_characters + _COMMAS_OF_STRUCTURE:
            raise RefusedError(RefusalCode.INVALID_REQUEST)
        try:
            return schema.model_validate_json(body.json)
        except ValidationError as error:
            # Of the places that are to blame, only names of ours are said: the others are a client's words.
            places = [str(problem["loc"][0]) for problem in error.errors(include_input=False) if problem["loc"]]
            known = next((place for place in places if place in schema.model_fields), None)
            raise RefusedError(RefusalCode.INVALID_REQUEST, known) from None
