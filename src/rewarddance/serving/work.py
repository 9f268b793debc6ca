"""What the engine is asked to do, and what it answers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rewarddance.core.types import JudgementRequest

if TYPE_CHECKING:
    from rewarddance.rewards.protocol import OrderMode

ChatPiece = str | bytes
"""Text, or the file of an image."""


@dataclass(frozen=True, slots=True)
class JudgeWork:
    """One judgement.

    Attributes:
        request: Media as bytes of files whose headers have been checked.
        order_mode: Both orders or one; None for the model's own.
    """

    request: JudgementRequest
    order_mode: "OrderMode | None" = None


@dataclass(frozen=True, slots=True)
class RankWork:
    """One ranking."""

    prompt: str
    candidates: tuple[bytes, ...]
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class ChatWork:
    """One question in the client's own words.

    Attributes:
        pieces: Text and images in reading order.
        alternatives: How many tokens are wanted with their log-probabilities.
        temperature: Of the drawn token; 0 takes the most probable one.
        seed: Decides what is drawn; None for chance.
        token_ids: The alternatives, where the client names them.
        names_ids: Whether tokens are called by their ids.
    """

    pieces: tuple[ChatPiece, ...]
    alternatives: int
    temperature: float = 0.0
    seed: int | None = None
    token_ids: tuple[int, ...] = ()
    names_ids: bool = False


Work = JudgeWork | RankWork | ChatWork

Lane = tuple[Literal["judge", "rank", "chat"], object]


def lane_of(work: Work) -> Lane:
    """Work of one lane may share a batch; a ranking is a batch of its own already."""
    match work:
        case JudgeWork():
            return ("judge", work.order_mode)
        case RankWork():
            return ("rank", id(work))
        case ChatWork():
            return ("chat", None)


def cost_of(work: Work) -> int:
    """Comparisons that the work stands for; what the queue and the batches are measured in."""
    if isinstance(work, RankWork):
        count = len(work.candidates)
        return count * (count - 1) // 2
    return 1


def media_bytes_of(work: Work) -> int:
    """Bytes of all files that the work holds; a file that stands for several media counts once."""
    match work:
        case JudgeWork(request):
            shown: tuple[object, ...] = (request.candidate, *request.reference_images, request.source_media)
        case RankWork():
            shown = work.candidates
        case ChatWork():
            shown = work.pieces
    return sum(len(file) for file in {id(one): one for one in shown if isinstance(one, bytes)}.values())


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token that may come next.

    Attributes:
        token: Its text.
        log_probability: Natural logarithm, over the whole vocabulary.
    """

    token: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class NextToken:
    """The answer to a question in the client's own words.

    Attributes:
        chosen: The most probable token, or the one that was drawn.
        alternatives: The most probable tokens, best first, or those that the client named.
        prompt_tokens: Length of the question.
    """

    chosen: TokenChance
    alternatives: tuple[TokenChance, ...]
    prompt_tokens: int
