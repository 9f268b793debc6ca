"""Why the service does not answer a request, as a closed list of codes.

What a client reads is written here and nowhere else: the words of a decoder, a parser or a traceback never leave the
process, because they can hold memory addresses, paths and secrets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rewarddance.core.errors import RewardDanceError


class RefusalCode(StrEnum):
    """The machine-readable half of an error."""

    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    INVALID_REQUEST = "invalid_request"
    INVALID_MULTIPART = "invalid_multipart"
    UNSUPPORTED_CONTENT = "unsupported_content"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TOO_SLOW = "body_too_slow"
    TOO_MANY_MEDIA = "too_many_media"
    INVALID_MEDIA_REFERENCE = "invalid_media_reference"
    MEDIA_HOST_NOT_ALLOWED = "media_host_not_allowed"
    MEDIA_FETCH_FAILED = "media_fetch_failed"
    MEDIA_TOO_LARGE = "media_too_large"
    UNREADABLE_MEDIA = "unreadable_media"
    TOO_LONG = "too_long"
    FAILED = "failed"
    UNKNOWN_INSTRUCTION = "unknown_instruction"
    REFERENCE_REQUIRED = "reference_required"
    UNSUPPORTED = "unsupported"
    REQUEST_ID_REUSED = "request_id_reused"
    BUSY = "busy"
    DRAINING = "draining"
    NOT_READY = "not_ready"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NON_FINITE = "non_finite"
    ENGINE_FAILED = "engine_failed"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a code is in HTTP and in words."""

    status: int
    message: str


_MEANINGS: Mapping[RefusalCode, _Meaning] = {
    RefusalCode.UNAUTHORIZED: _Meaning(401, "a bearer token is needed; send it as `Authorization: Bearer TOKEN`"),
    RefusalCode.NOT_FOUND: _Meaning(404, "no such route; `/openapi.json` lists them"),
    RefusalCode.METHOD_NOT_ALLOWED: _Meaning(405, "the route does not take this method"),
    RefusalCode.INVALID_REQUEST: _Meaning(400, "the body is not what the route takes; see `/openapi.json`"),
    RefusalCode.INVALID_MULTIPART: _Meaning(400, "the form is damaged or lacks the part `request`"),
    RefusalCode.UNSUPPORTED_CONTENT: _Meaning(415, "send application/json or multipart/form-data, not compressed"),
    RefusalCode.BODY_TOO_LARGE: _Meaning(413, "the body is larger than the service takes"),
    RefusalCode.BODY_TOO_SLOW: _Meaning(408, "the body did not arrive in time"),
    RefusalCode.TOO_MANY_MEDIA: _Meaning(422, "more media than the service takes in one request"),
    RefusalCode.INVALID_MEDIA_REFERENCE: _Meaning(
        422, "a medium is a base64 data URI or `part:NAME` of a form; addresses are not fetched"
    ),
    RefusalCode.MEDIA_HOST_NOT_ALLOWED: _Meaning(422, "the service does not fetch from this address"),
    RefusalCode.MEDIA_FETCH_FAILED: _Meaning(422, "the medium could not be fetched"),
    RefusalCode.MEDIA_TOO_LARGE: _Meaning(422, "a medium has more bytes, pixels or frames than the service takes"),
    RefusalCode.UNREADABLE_MEDIA: _Meaning(422, "a medium cannot be decoded"),
    RefusalCode.TOO_LONG: _Meaning(422, "the question is longer than the model can read; shorten the prompt"),
    RefusalCode.FAILED: _Meaning(422, "the model cannot be asked this; the prompt may hold its image token"),
    RefusalCode.UNKNOWN_INSTRUCTION: _Meaning(422, "no instruction of this name"),
    RefusalCode.REFERENCE_REQUIRED: _Meaning(422, "this model judges against a reference image; give one"),
    RefusalCode.UNSUPPORTED: _Meaning(422, "the service does not do this; see docs/serving.md"),
    RefusalCode.REQUEST_ID_REUSED: _Meaning(409, "the request id belongs to another body"),
    RefusalCode.BUSY: _Meaning(429, "the queue is full; try again later"),
    RefusalCode.DRAINING: _Meaning(503, "the service is about to stop; ask another instance"),
    RefusalCode.NOT_READY: _Meaning(503, "the model is not loaded yet; try again later"),
    RefusalCode.DEADLINE_EXCEEDED: _Meaning(504, "the deadline passed before the answer was there"),
    RefusalCode.NON_FINITE: _Meaning(500, "the model's answer is not a number; its weights are unsuitable"),
    RefusalCode.ENGINE_FAILED: _Meaning(500, "the model failed on this request; the log of the service says why"),
    RefusalCode.INTERNAL: _Meaning(500, "the service failed; its log says why"),
}


class RefusedError(RewardDanceError):
    """A request that gets no answer; becomes an error response with nothing but its code's own words."""

    def __init__(self, code: RefusalCode, field: str | None = None, retry_after_seconds: int | None = None) -> None:
        """Refuse.

        Args:
            code: Why.
            field: Which field of the body is to blame; a name of ours, never a client's word.
            retry_after_seconds: When another try makes sense, for codes that pass.
        """
        super().__init__(_MEANINGS[code].message)
        self.code = code
        self.field = field
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[object, ...]:
        """An exception is otherwise made again from its message."""
        return type(self), (self.code, self.field, self.retry_after_seconds)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _MEANINGS[self.code].status

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON of the response; the shape that OpenAI's clients read too."""
        return {"error": {"code": self.code.value, "message": str(self), "field": self.field}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the code."""
        if self.code is RefusalCode.UNAUTHORIZED:
            return {"WWW-Authenticate": "Bearer"}
        return {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}
