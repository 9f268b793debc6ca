"""A client of any service that speaks OpenAI's chat completions: vLLM, SGLang, a vendor.

Many questions at a time and no more than allowed; every try has a deadline, a passing failure is tried again after a
pause that doubles and is drawn at random, and a `Retry-After` is kept by all questions of the client. What comes of a
question is a `ChatReply` or a `ChatFailure` with a name.

The key comes from an environment variable. It is sent to the service and appears nowhere else: no redirect is
followed, and what the service wrote is kept without it.
"""

import base64
import json
import os
import random
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import httpx2

from rewarddance.core.errors import UsageError
from rewarddance.rewards.chat_replies import (
    PASSING,
    ChatFailure,
    ChatReply,
    FailureKind,
    failure_of_status,
    read_reply,
)

ChatPart = str | bytes
"""A piece of a message: text, or the bytes of a PNG file."""

ChatOutcome = ChatReply | ChatFailure

_LARGEST_REPLY_BYTES = 16 * 2**20
_HIDDEN = "[key]"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Which service is asked, and how patiently.

    Attributes:
        url: Base address, up to and including `/v1`.
        model: Name under which the service knows the model.
        api_key_env: Environment variable that holds the key; None for a service without one.
        concurrency: Questions in flight at a time.
        tries: Of each question, the first included.
        deadline_seconds: For one try, from connecting to the last byte.
        backoff_seconds: Pause before the second try; doubled before each further one.
        longest_wait_seconds: Longest pause; a service that asks for a longer one has failed.
        request_fields: Fields of every request's JSON that are added or replaced, or left out where they are None:
            reasoning models take `max_completion_tokens` in place of `max_tokens`, and no `temperature`.
    """

    url: str
    model: str
    api_key_env: str | None = None
    concurrency: int = 8
    tries: int = 5
    deadline_seconds: float = 120.0
    backoff_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    request_fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{self.url!r} is no address of a service; give one like http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            # Addresses are written to configs and reports.
            raise UsageError("the address of a service holds a user, password or query; name a variable for the key")
        has_time = self.deadline_seconds > 0 and self.backoff_seconds >= 0 and self.longest_wait_seconds >= 0
        if not (self.model and self.concurrency >= 1 and self.tries >= 1 and has_time):
            raise UsageError("a service needs a model's name, a concurrency and tries of 1 or more, and a deadline")
        _refuse_fixed_fields(self.request_fields)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One user turn.

    Attributes:
        parts: Text and images in reading order.
        max_tokens: Longest reply.
        temperature: 0 for the likeliest text; log-probabilities are only those of the model at 1.
        seed: For services that draw repeatably; None for none.
        must_finish: Whether a reply that was cut at `max_tokens`, or broken off, is a failure.
        top_log_probabilities: Chances of the first token that are asked for; 0 for none.
        extra: Further fields of the request's JSON.
    """

    parts: tuple[ChatPart, ...]
    max_tokens: int
    temperature: float = 1.0
    seed: int | None = None
    must_finish: bool = True
    top_log_probabilities: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Response:
    """A whole reply: HTTP status, body without the key, and the pause in seconds that it asks for."""

    status: int
    content: bytes
    pause_asked: float


class ChatEndpoint:
    """Asks one model of one service; safe to use from several threads, to be closed when done."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Open the client; nothing is sent.

        Raises:
            UsageError: The variable that should hold the key is empty or not set, or the key is not plain text.
        """
        self.settings = settings
        self._key = _key_of(settings.api_key_env)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._client = httpx2.Client(
            headers=headers,
            timeout=settings.deadline_seconds,
            follow_redirects=False,
            # What is on this machine is never asked through a proxy.
            trust_env=urlsplit(settings.url).hostname not in _LOOPBACK,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=settings.concurrency),
        )
        # Whoever forgets to close it loses no connections.
        weakref.finalize(self, self._client.close)
        self._address = f"{settings.url.rstrip('/')}/chat/completions"
        self._lock = threading.Lock()
        self._open_at = 0.0

    def __enter__(self) -> "ChatEndpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def ask(self, requests: Sequence[ChatRequest]) -> list[ChatOutcome]:
        """One outcome a request, in order."""
        outcomes = dict(self.replies(requests))
        return [outcomes[place] for place in range(len(requests))]

    def replies(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[int, ChatOutcome]]:
        """Outcomes as they come, each with its request's number; requests are taken as there is room for them.

        When the caller stops early, what is in flight is left to end by itself, and nothing more is sent.
        """
        ended: SimpleQueue[tuple[int, ChatOutcome | BaseException]] = SimpleQueue()
        is_over = threading.Event()
        in_flight = 0
        try:
            for place, request in enumerate(requests):
                if in_flight >= self.settings.concurrency:
                    yield _taken(ended)
                    in_flight -= 1
                # Daemons: an interrupted program ends without waiting for the service.
                threading.Thread(target=self._work, args=(place, request, ended, is_over), daemon=True).start()
                in_flight += 1
            while in_flight:
                yield _taken(ended)
                in_flight -= 1
        finally:
            is_over.set()

    def _work(
        self,
        place: int,
        request: ChatRequest,
        ended: "SimpleQueue[tuple[int, ChatOutcome | BaseException]]",
        is_over: threading.Event,
    ) -> None:
        try:
            ended.put((place, self._patiently(request, is_over)))
        except BaseException as error:
            # Raised again by the thread that waits: a mistake of ours is no failure of the service.
            ended.put((place, error))

    def _patiently(self, request: ChatRequest, is_over: threading.Event) -> ChatOutcome:
        body = json.dumps(self._body(request)).encode()
        tried = 0
        while True:
            is_over.wait(max(0.0, self._open_at - time.monotonic()))
            if is_over.is_set():
                return ChatFailure(FailureKind.UNREACHABLE, "not asked: the caller has stopped", tried)
            outcome, asked_pause = self._try(body, request)
            tried += 1
            outcome = self._without_key(replace(outcome, tries=tried))
            if isinstance(outcome, ChatReply) or outcome.kind not in PASSING or tried == self.settings.tries:
                return outcome
            if asked_pause > self.settings.longest_wait_seconds:
                return replace(outcome, message=f"{outcome.message}; it asks to wait for {asked_pause:.0f} seconds")
            self._close_for(asked_pause)
            is_over.wait(self._pause(tried))

    def _try(self, body: bytes, request: ChatRequest) -> tuple[ChatOutcome, float]:
        """One try, and the pause in seconds that the service asks for."""
        try:
            response = self._sent_in_time(body)
        except httpx2.TimeoutException:
            message = f"no reply within {self.settings.deadline_seconds:g} seconds"
            return ChatFailure(FailureKind.TIMED_OUT, message), 0.0
        except httpx2.RequestError as error:
            return _failure_of(error), 0.0
        if response.status != 200:
            return failure_of_status(response.status, response.content), response.pause_asked
        wants = request.top_log_probabilities > 0
        return read_reply(response.content, wants_log_probabilities=wants, must_finish=request.must_finish), 0.0

    def _sent_in_time(self, body: bytes) -> "_Response":
        """What came back, whole; a head that drips keeps every single read in time, and is left behind.

        Raises:
            httpx2.RequestError: It did not, or not in time.
        """
        ended: SimpleQueue[_Response | BaseException] = SimpleQueue()

        def work() -> None:
            try:
                ended.put(self._sent(body))
            except BaseException as error:
                ended.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            found = ended.get(timeout=self.settings.deadline_seconds)
        except Empty:
            raise httpx2.ReadTimeout("too slow") from None
        if isinstance(found, BaseException):
            raise found
        return found

    def _sent(self, body: bytes) -> "_Response":
        """What came back, whole.

        Raises:
            httpx2.RequestError: It did not, or not in time.
        """
        ends_at = time.monotonic() + self.settings.deadline_seconds
        content = bytearray()
        with self._client.stream("POST", self._address, content=body) as response:
            for chunk in response.iter_bytes():
                content += chunk
                # A service that sends a byte now and then keeps every single read in time.
                if time.monotonic() > ends_at:
                    raise httpx2.ReadTimeout("too slow")
                if len(content) > _LARGEST_REPLY_BYTES:
                    raise httpx2.DecodingError("the reply does not end")
        # Before anything is quoted: half a key at the end of a shortened quotation is still half a key.
        whole = content if self._key is None else content.replace(self._key.encode(), _HIDDEN.encode())
        return _Response(response.status_code, bytes(whole), _pause_asked(response.headers))

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {
                "type": "image_url",
                "image_url": {"url": f"data:image/png;base64,{base64.b64encode(part).decode()}"},
            }
            for part in request.parts
        ]
        return {"messages": [{"role": "user", "content": content}], **sent_fields(self.settings, request)}

    def _pause(self, tried: int) -> float:
        longest: float = min(self.settings.backoff_seconds * 2.0 ** (tried - 1), self.settings.longest_wait_seconds)
        # Drawn anew by every process, so that many clients do not come back at the same moment.
        return longest * random.uniform(0.5, 1.0)

    def _close_for(self, seconds: float) -> None:
        with self._lock:
            self._open_at = max(self._open_at, time.monotonic() + seconds)

    def _without_key(self, outcome: ChatOutcome) -> ChatOutcome:
        if self._key is None:
            return outcome
        text = None if outcome.text is None else outcome.text.replace(self._key, _HIDDEN)
        if isinstance(outcome, ChatReply):
            return replace(outcome, text=text)
        return replace(outcome, message=outcome.message.replace(self._key, _HIDDEN), text=text)


def sent_fields(settings: EndpointSettings, request: ChatRequest) -> dict[str, Any]:
    """The JSON of a request without what is asked: everything else that its reply depends on."""
    fields: dict[str, Any] = {
        "model": settings.model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "n": 1,
        "stream": False,
    }
    if request.top_log_probabilities:
        fields |= {"logprobs": True, "top_logprobs": request.top_log_probabilities}
    fields |= {**request.extra, **settings.request_fields}
    return {name: value for name, value in fields.items() if value is not None}


def _refuse_fixed_fields(fields: Mapping[str, Any]) -> None:
    """Keep what a request is about, and the form of its reply.

    Raises:
        UsageError: A field is not to be changed.
    """
    changed = [name for name in ("model", "messages") if name in fields]
    changed += [name for name in ("n", "stream") if fields.get(name) is not None]
    if changed:
        raise UsageError(f"the request field {changed[0]} is not to be changed; leave it out of the request fields")


def _taken(ended: "SimpleQueue[tuple[int, ChatOutcome | BaseException]]") -> tuple[int, ChatOutcome]:
    place, outcome = ended.get()
    if isinstance(outcome, BaseException):
        raise outcome
    return place, outcome


def _failure_of(error: httpx2.RequestError) -> ChatFailure:
    if isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError):
        return ChatFailure(FailureKind.BROKEN_OFF, "the connection broke before the reply was whole")
    if isinstance(error, httpx2.TransportError):
        return ChatFailure(FailureKind.UNREACHABLE, f"the service cannot be reached: {type(error).__name__}")
    return ChatFailure(FailureKind.MALFORMED, f"the reply cannot be read: {type(error).__name__}")


def _key_of(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(f"the environment variable {variable} holds no key; set it, or name another")
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"the environment variable {variable} holds more than a key: letters that no header may have")
    return key


def _pause_asked(headers: Mapping[str, str]) -> float:
    """Seconds of a `Retry-After`, which is a number or a date; 0 without one."""
    stated = headers.get("retry-after", "")
    try:
        return max(0.0, float(stated))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(stated).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
