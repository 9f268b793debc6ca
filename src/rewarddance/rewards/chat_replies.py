"""What a chat-completions service says, as values: a reply, or the kind of failure that it was.

A service may say anything. What does not have the form of the protocol is a failure with a name; no text, number or
finish reason is ever made up for it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_LONGEST_QUOTE = 200
_CERTAIN = 1e-3
"""Log-probabilities up to this much above 0 are rounding; more is no probability."""


class FailureKind(StrEnum):
    """Why a question has no reply."""

    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    BROKEN_OFF = "broken_off"
    MALFORMED = "malformed"
    REFUSED = "refused"
    CUT_SHORT = "cut_short"
    NO_LOG_PROBABILITIES = "no_log_probabilities"
    NO_ANSWER = "no_answer"
    NOT_ALLOWED = "not_allowed"
    REJECTED = "rejected"


PASSING = frozenset(
    {
        FailureKind.UNREACHABLE,
        FailureKind.TIMED_OUT,
        FailureKind.RATE_LIMITED,
        FailureKind.SERVER_ERROR,
        FailureKind.BROKEN_OFF,
        FailureKind.MALFORMED,
    }
)
"""Failures that another try may mend; the others would come again."""

_FINISHED = (None, "stop", "eos", "end_turn", "eos_token", "stop_sequence")
"""Why a whole text ends. Services have many words for a text that does not: `abort`, `error`, `tool_calls`."""

_REFUSING_CODES = ("content_filter", "content_policy_violation")


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token that the model could have begun with, as the service names it, and its log-probability."""

    token: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What the service said.

    Attributes:
        text: The whole message; None where there is none beside the log-probabilities that were asked for.
        first_token: Chances of the first token, most in no order; empty when they were not asked for.
        finish_reason: The service's word for why it ended, if it gave one.
        prompt_tokens: Tokens read, as the service counts them.
        generated_tokens: Tokens written, as the service counts them.
        tries: How often it was asked, this time included.
    """

    text: str | None
    first_token: tuple[TokenChance, ...] = ()
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    tries: int = 1


@dataclass(frozen=True, slots=True)
class ChatFailure:
    """Why there is no reply.

    Attributes:
        kind: Decides whether it is worth asking again.
        message: One line.
        tries: How often it was asked.
        text: What the service wrote, where it wrote something that is not to be used.
    """

    kind: FailureKind
    message: str
    tries: int = 1
    text: str | None = None


def read_reply(body: bytes, *, wants_log_probabilities: bool, must_finish: bool) -> ChatReply | ChatFailure:
    """A reply of status 200.

    Args:
        body: As it came.
        wants_log_probabilities: Whether a reply without them is a failure, and one with nothing else is none.
        must_finish: Whether a reply that was cut at the limit of tokens, or broken off, is a failure.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return ChatFailure(FailureKind.MALFORMED, f"the reply is not JSON: {quoted(body)}")
    choice = _only_choice(content)
    if choice is None:
        return ChatFailure(FailureKind.MALFORMED, f"the reply does not hold exactly one choice: {quoted(body)}")
    message, reason = choice["message"], choice.get("finish_reason")
    text = _text_of(message.get("content"))
    failure = _unusable(message, reason, text, must_finish)
    chances = _first_token(choice.get("logprobs")) if wants_log_probabilities and failure is None else ()
    if isinstance(chances, ChatFailure):
        return chances
    if text is None and not wants_log_probabilities:
        failure = failure or ChatFailure(FailureKind.MALFORMED, f"the reply holds no text: {quoted(body)}")
    if failure is not None:
        return failure
    usage = content.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return ChatReply(
        text,
        chances,
        reason if isinstance(reason, str) else None,
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
    )


def _unusable(message: Mapping[str, Any], reason: object, text: str | None, must_finish: bool) -> ChatFailure | None:
    """What is wrong with a message that has the right form; None when nothing is."""
    if message.get("refusal") or reason == "content_filter":
        said = message.get("refusal") or "its content filter stopped it"
        return ChatFailure(FailureKind.REFUSED, f"the model refused: {quoted(str(said))}", text=text)
    if must_finish and reason == "length":
        return ChatFailure(FailureKind.CUT_SHORT, "the text did not end within the allowed tokens", text=text)
    if must_finish and reason not in _FINISHED:
        return ChatFailure(FailureKind.BROKEN_OFF, f"the text ended with {quoted(str(reason))}", text=text)
    return None


def failure_of_status(status: int, body: bytes) -> ChatFailure:
    """What an HTTP status other than 200 means."""
    said = _error_of(body)
    message = f"the service answered with HTTP {status}: {said}"
    if status == 429:
        return ChatFailure(FailureKind.RATE_LIMITED, message)
    if status >= 500 or status in (408, 409, 425):
        return ChatFailure(FailureKind.SERVER_ERROR, message)
    if status in (401, 403):
        return ChatFailure(FailureKind.NOT_ALLOWED, message)
    if any(code in body.decode(errors="replace") for code in _REFUSING_CODES):
        return ChatFailure(FailureKind.REFUSED, message)
    return ChatFailure(FailureKind.REJECTED, message)


def quoted(text: str | bytes) -> str:
    """The beginning of what a service wrote, on one line, for a message."""
    words = " ".join((text.decode(errors="replace") if isinstance(text, bytes) else text).split())
    printable = "".join(letter if letter.isprintable() else "?" for letter in words[: _LONGEST_QUOTE + 1])
    return repr(printable if len(words) <= _LONGEST_QUOTE else f"{printable[:_LONGEST_QUOTE]}...")


def _only_choice(content: object) -> Mapping[str, Any] | None:
    if not isinstance(content, Mapping) or not isinstance(choices := content.get("choices"), list):
        return None
    if len(choices) != 1 or not isinstance(choice := choices[0], Mapping) or choice.get("index", 0) != 0:
        return None
    return choice if isinstance(choice.get("message"), Mapping) else None


def _text_of(content: object) -> str | None:
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts and len(texts) == len(parts) else None
    return content if isinstance(content, str) else None


def _first_token(stated: object) -> tuple[TokenChance, ...] | ChatFailure:
    positions = stated.get("content") if isinstance(stated, Mapping) else None
    if not isinstance(positions, Sequence) or not positions or not isinstance(positions[0], Mapping):
        return ChatFailure(
            FailureKind.NO_LOG_PROBABILITIES, "the service returned no log-probabilities; start it with them enabled"
        )
    top = positions[0].get("top_logprobs")
    if not isinstance(top, list) or not top:
        return ChatFailure(
            FailureKind.NO_LOG_PROBABILITIES, "the service returned no list of likely tokens; allow top_logprobs"
        )
    chances = [_chance(entry) for entry in top]
    # The sampled token may stand outside the list.
    chances += [_chance(positions[0])] if positions[0].get("token") not in [_token(entry) for entry in top] else []
    whole = tuple(chance for chance in chances if chance is not None)
    if len(whole) < len(chances):
        return ChatFailure(FailureKind.MALFORMED, "a log-probability of the reply is no log-probability")
    return whole


def _token(entry: object) -> object:
    return entry.get("token") if isinstance(entry, Mapping) else None


def _chance(entry: object) -> TokenChance | None:
    token = _token(entry)
    value = entry.get("logprob") if isinstance(entry, Mapping) else None
    if not isinstance(token, str) or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has integers of any length
        return None
    return None if math.isnan(number) or number > _CERTAIN else TokenChance(token, number)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _error_of(body: bytes) -> str:
    """The message of an error in the protocol's form, else the beginning of whatever came."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    error = content.get("error", content) if isinstance(content, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else None
    return quoted(message if isinstance(message, str) else body) if body else "without a word"
