"""What goes over the wire, as typed JSON. Unknown keys are refused; so are NaN and numbers where text belongs."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_CLOSED = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
# Chat clients send dozens of sampling options; those that change nothing here are let through.
_OPEN = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

MediumReference = Annotated[str, Field(min_length=1)]
"""A base64 data URI (`data:image/png;base64,...`) or `part:NAME` of a multipart form."""


class JudgeBody(BaseModel):
    """How good is a candidate for a prompt, against reference images?"""

    model_config = _CLOSED

    prompt: str
    """The text that asked for the media."""
    candidate: MediumReference
    """What is judged."""
    reference_images: list[MediumReference] = []
    """What it is judged against; a pairwise model needs at least one."""
    source_media: MediumReference | None = None
    """What an edit or an image-to-video prompt starts from."""
    instruction: str | None = None
    """Name of stored criteria; the model's own if left out."""
    order_mode: Literal["two", "one"] | None = None
    """Ask in both orders or in one; the model's own if left out."""
    deadline_seconds: float | None = Field(default=None, gt=0)
    """Give up after this time; never longer than the service's own."""


class JudgeAnswer(BaseModel):
    """A judgement; one that failed is an error response instead, and has no score."""

    score: float
    """P(yes) / (P(yes) + P(no)) in [0, 1]."""
    reward: float
    """Log-odds of yes."""
    order_gap: float | None
    """Disagreement of the two orders in [0, 1]; null when one was asked."""
    leaked_mass: float | None
    """Probability outside yes and no; null for a scalar model."""
    instruction: str | None
    """Criteria that were used."""
    model: str
    """Fingerprint of the model."""


class RankBody(BaseModel):
    """Which of these is best for a prompt?"""

    model_config = _CLOSED

    prompt: str
    """The text that asked for the media."""
    candidates: list[MediumReference] = Field(min_length=2)
    """What is ranked."""
    instruction: str | None = None
    """Name of stored criteria; the model's own if left out."""
    deadline_seconds: float | None = Field(default=None, gt=0)
    """Give up after this time; never longer than the service's own."""


class RankAnswer(BaseModel):
    """A ranking by pairwise win count."""

    order: list[int]
    """Candidate indices, best first."""
    wins: list[float | None]
    """Win count of each candidate; null where it could not be judged."""
    rewards: list[float | None]
    """Mean log-odds of each candidate against the others; null where it could not be judged."""
    failed_comparisons: int
    """Comparisons without an answer."""
    model: str
    """Fingerprint of the model."""


class ImageAddress(BaseModel):
    """Where the image of a message is."""

    model_config = _OPEN

    url: MediumReference
    """A base64 data URI."""


class TextPart(BaseModel):
    """Text of a message."""

    model_config = _OPEN

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """An image of a message."""

    model_config = _OPEN

    type: Literal["image_url"]
    image_url: ImageAddress


class ChatMessage(BaseModel):
    """One turn."""

    model_config = _OPEN

    role: str
    """Only `user`: a question has one turn."""
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class ChatBody(BaseModel):
    """A question in the shape of OpenAI's chat completions, answered by one token with its log-probabilities."""

    model_config = _OPEN

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    """Ignored: the service has one model."""
    logprobs: bool = False
    """Whether log-probabilities are wanted."""
    top_logprobs: int = Field(default=0, ge=0, le=20)
    """How many alternatives of the token."""
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1)
    """Only 1."""
    stream: bool = False
    """Only false."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 or left out: the token is the most probable one; above, it is drawn. Log-probabilities stay those at 1."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    """Decides what is drawn."""
    logprob_token_ids: list[int] | None = Field(default=None, min_length=1, max_length=128)
    """Alternatives are these tokens of the vocabulary, as vLLM has it, and not the most probable ones."""
    return_tokens_as_token_ids: bool = False
    """Name tokens `token_id:17` instead of by their text."""
    deadline_seconds: float | None = Field(default=None, gt=0)
    """Give up after this time; never longer than the service's own."""


class ErrorDetail(BaseModel):
    """Why there is no answer."""

    code: str
    """One of a closed list; see docs/serving.md."""
    message: str
    """The code in words."""
    field: str | None
    """Which field of the body is to blame."""


class ErrorAnswer(BaseModel):
    """Every response above 299."""

    error: ErrorDetail
