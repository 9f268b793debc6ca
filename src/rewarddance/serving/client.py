"""A small client of the scoring service. Standard library only, so that any trainer's environment can use it.

A request that got no answer is asked again under the same id, after a pause that grows and is never the same for two
clients. What stays without an answer is a judgement with a status: no number is put in its place.
"""

import base64
import http.client
import json
import math
import os
import queue
import random
import time
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from rewarddance.core.errors import MediaError, RewardError, UsageError
from rewarddance.core.media import MediaSource, load_image, refuse_other_sources
from rewarddance.core.types import Judgement, JudgementRequest, Media, Ranking, Status
from rewarddance.serving.authentication import TOKEN_VARIABLE

if TYPE_CHECKING:
    from rewarddance.rewards.protocol import OrderMode

_TRANSIENT = frozenset({408, 429, 502, 503, 504})
_STATUSES = {status.value: status for status in Status if status is not Status.OK}
_CONFIGURATION = frozenset({401, 404, 405})


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How patient a client is.

    Attributes:
        attempts: Tries of one request, the first one included.
        timeout_seconds: For one try.
        back_off_seconds: Pause after the first failed try; it doubles, and `Retry-After` is kept if it is longer.
        max_back_off_seconds: Longest pause.
        concurrency: Requests on their way at the same time; the service makes batches of them.
    """

    attempts: int = 6
    timeout_seconds: float = 60.0
    back_off_seconds: float = 0.25
    max_back_off_seconds: float = 10.0
    concurrency: int = 16

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.concurrency < 1 or not self.timeout_seconds > 0:
            raise UsageError("a client needs at least one attempt, one request at a time and a timeout above 0")


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came back, or did not: status 0 stands for no answer at all."""

    status: int
    body: Mapping[str, Any]
    retry_after: float = 0.0

    @property
    def code(self) -> str:
        error = self.body.get("error")
        return str(error.get("code")) if isinstance(error, dict) else "no_answer"


@dataclass(slots=True)
class ScoringClient:
    """A client of one service.

    Attributes:
        url: `http://host:port` or `https://host:port`, perhaps with a path in front of the routes.
        token: What the service asks for; from the variable REWARDDANCE_TOKEN when None.
        settings: How patient it is.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    settings: ClientSettings = field(default_factory=ClientSettings)
    _connections: "queue.LifoQueue[http.client.HTTPConnection]" = field(default_factory=queue.LifoQueue, repr=False)
    _random: random.Random = field(default_factory=random.Random, repr=False)

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        found = urllib.parse.urlsplit(self.url)
        if found.scheme not in ("http", "https") or not found.hostname:
            raise UsageError(f"{self.url!r} is no address of a service; write http://host:port")
        self.token = self.token or os.environ.get(TOKEN_VARIABLE) or None

    def judge(self, requests: Sequence[JudgementRequest], order_mode: "OrderMode | None" = None) -> list[Judgement]:
        """One judgement a request, in order; see `RewardModel.judge`.

        Raises:
            UsageError: The service does not know the token or the route.
        """
        requests = list(requests)
        if not requests:
            return []
        with ThreadPoolExecutor(min(self.settings.concurrency, len(requests))) as threads:
            return list(threads.map(lambda request: self._judge(request, order_mode), requests))

    def rank(self, prompt: str, candidates: Sequence[MediaSource], instruction: str | None = None) -> Ranking:
        """Candidates by pairwise win count; the single judgements stay on the service, but for how many failed.

        Raises:
            RewardError: The service did not rank them.
            MediaError: A candidate cannot be read here.
            UsageError: The service does not know the token or the route.
        """
        body = {"prompt": prompt, "candidates": [_encoded(one) for one in candidates], "instruction": instruction}
        reply = self._ask("/v1/rank", body)
        if reply.status != http.client.OK:
            raise RewardError(f"{self.url} did not rank: {reply.code}")
        places, wins, rewards, failed = (
            reply.body.get(name) for name in ("order", "wins", "rewards", "failed_comparisons")
        )
        if not (isinstance(places, list) and sorted(places) == list(range(len(candidates)))):
            raise RewardError(f"{self.url} answered with a ranking of other candidates")
        has_numbers = _are_numbers(wins, len(candidates)) and _are_numbers(rewards, len(candidates))
        if not has_numbers or not isinstance(failed, int):
            raise RewardError(f"{self.url} answered with something that is not a ranking")
        assert isinstance(wins, list)
        assert isinstance(rewards, list)
        return Ranking(tuple(places), tuple(wins), tuple(rewards), (), failed)

    def is_ready(self) -> bool:
        """Whether the service takes requests; asked once, without patience."""
        return self._try("GET", "/ready", None, None).status == http.client.OK

    def __enter__(self) -> "ScoringClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept for later."""
        while True:
            try:
                self._connections.get_nowait().close()
            except queue.Empty:
                return

    def _judge(self, request: JudgementRequest, order_mode: "OrderMode | None") -> Judgement:
        try:
            body = _judge_body(request, order_mode)
        except MediaError as error:
            return Judgement(Status.UNREADABLE_MEDIA, message=str(error), id=request.id)
        return _judgement(self._ask("/v1/judge", body), request)

    def _ask(self, route: str, body: Mapping[str, object]) -> _Reply:
        """Ask until there is an answer that another try would not change."""
        data = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
        request_id = uuid.uuid4().hex
        reply = _Reply(0, {})
        for attempt in range(self.settings.attempts):
            if attempt:
                time.sleep(self._pause(attempt, reply.retry_after))
            reply = self._try("POST", route, data, request_id)
            if reply.status in _CONFIGURATION:
                raise UsageError(f"{self.url}{route} answered {reply.status} ({reply.code}); check address and token")
            if reply.status != 0 and reply.status not in _TRANSIENT:
                break
        return reply

    def _pause(self, attempt: int, retry_after: float) -> float:
        grown = min(self.settings.back_off_seconds * 2 ** (attempt - 1), self.settings.max_back_off_seconds)
        asked = min(retry_after, self.settings.max_back_off_seconds)
        # Clients that were refused together would come back together.
        return float(max(grown, asked) * self._random.uniform(0.75, 1.25))

    def _try(self, method: str, route: str, data: bytes | None, request_id: str | None) -> _Reply:
        headers = {"Content-Type": "application/json"} if data is not None else {}
        if request_id is not None:
            headers["X-Request-Id"] = request_id
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        target = urllib.parse.urlsplit(self.url).path.rstrip("/") + route
        try:
            return self._exchange(self._connections.get_nowait(), method, target, data, headers)
        except queue.Empty:
            pass
        except ConnectionError:
            # The service closes connections that have been idle; all that were kept are as old. It says nothing about
            # the service, so it is no try.
            self.close()
        except (OSError, http.client.HTTPException):
            return _Reply(0, {})
        try:
            return self._exchange(self._new_connection(), method, target, data, headers)
        except (OSError, http.client.HTTPException):
            return _Reply(0, {})

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        data: bytes | None,
        headers: Mapping[str, str],
    ) -> _Reply:
        try:
            connection.request(method, target, data, dict(headers))
            answer = connection.getresponse()
            text = answer.read()
        except BaseException:
            connection.close()
            raise
        self._connections.put(connection)
        return _Reply(answer.status, _object(text), _seconds(answer.headers.get("Retry-After")))

    def _new_connection(self) -> http.client.HTTPConnection:
        found = urllib.parse.urlsplit(self.url)
        make = http.client.HTTPSConnection if found.scheme == "https" else http.client.HTTPConnection
        return make(str(found.hostname), found.port, timeout=self.settings.timeout_seconds)


def _judge_body(request: JudgementRequest, order_mode: "OrderMode | None") -> dict[str, object]:
    if isinstance(request.instruction, Path):
        raise UsageError("a service judges by stored criteria; give the name of an instruction, not a file")
    return {
        "prompt": request.prompt,
        "candidate": _encoded(request.candidate),
        "reference_images": [_encoded(one) for one in request.reference_images],
        "source_media": None if request.source_media is None else _encoded(request.source_media),
        "instruction": request.instruction,
        "order_mode": order_mode,
    }


def _encoded(source: MediaSource) -> str:
    """A data URI; files go as they are, images as PNG of what a model in this process would see of them.

    Raises:
        MediaError: It cannot be read.
        UsageError: It is no medium in any form.
    """
    refuse_other_sources(source)
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, Image.Image):
        file = BytesIO()
        # A PNG would lose what the image only says of itself, such as how it is turned.
        load_image(source).save(file, "PNG")
        data = file.getvalue()
    else:
        path = Path(source.path if isinstance(source, Media) else source)
        try:
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            raise MediaError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def _judgement(reply: _Reply, request: JudgementRequest) -> Judgement:
    if reply.status != http.client.OK:
        is_answered = reply.status != 0 and reply.status not in _TRANSIENT
        status = _STATUSES.get(reply.code, Status.FAILED) if is_answered else Status.UNANSWERED
        return Judgement(status, message=f"the service answered {reply.code}", id=request.id)
    body = reply.body
    score, reward = body.get("score"), body.get("reward")
    # The other end may be anything, so a number counts only if it can be one.
    if not (_are_numbers([score, reward], 2) and score is not None and reward is not None and 0 <= score <= 1):
        return Judgement(Status.FAILED, message="the service answered with something that is no score", id=request.id)
    return Judgement(
        Status.OK,
        score=float(score),
        reward=float(reward),
        order_gap=_number(body.get("order_gap")),
        leaked_mass=_number(body.get("leaked_mass")),
        instruction=None if body.get("instruction") is None else str(body["instruction"]),
        id=request.id,
    )


def _number(value: object) -> float | None:
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has integers of any length
        return None
    return number if math.isfinite(number) else None


def _are_numbers(values: object, count: int) -> bool:
    """Whether these are so many finite numbers or nulls."""
    if not isinstance(values, list) or len(values) != count:
        return False
    return all(value is None or (not isinstance(value, bool) and _number(value) is not None) for value in values)


def _object(text: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isdecimal() else 0.0
