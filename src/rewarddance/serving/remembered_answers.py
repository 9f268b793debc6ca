"""Answers by request id: a client that lost a reply asks again, and the work is not done twice."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from rewarddance.serving.engine import Answer
from rewarddance.serving.refusals import RefusalCode, RefusedError

_CAPACITY = 4_096


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    answer: "asyncio.Task[Answer]"


@dataclass(slots=True)
class RememberedAnswers:
    """The latest answers, and those that are being worked on.

    Attributes:
        capacity: How many; the oldest is forgotten first.
    """

    capacity: int = _CAPACITY
    _entries: OrderedDict[tuple[str, str], _Entry] = field(default_factory=OrderedDict)

    async def once(
        self, route: str, request_id: str | None, body: bytes, compute: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """The answer to a request, computed unless it is known or on its way.

        Args:
            route: Ids of different routes are different.
            request_id: The client's; None computes always.
            body: What was asked under the id.
            compute: Gives the answer.

        Raises:
            RefusedError: Another body was asked under the same id; or whatever `compute` raises, which is forgotten.
        """
        if request_id is None:
            return await compute()
        key, digest = (route, request_id), hashlib.sha256(body).digest()
        entry = self._entries.get(key)
        if entry is None:
            entry = _Entry(digest, asyncio.ensure_future(_awaited(compute)))
            self._entries[key] = entry
            entry.answer.add_done_callback(lambda task: self._forget_failure(key, task))
            if len(self._entries) > self.capacity:
                self._entries.popitem(last=False)
        elif entry.digest != digest:
            raise RefusedError(RefusalCode.REQUEST_ID_REUSED)
        # A client that hangs up does not take the answer from the one that asks again.
        return await asyncio.shield(entry.answer)

    def _forget_failure(self, key: tuple[str, str], task: "asyncio.Task[Answer]") -> None:
        failed = task.cancelled() or task.exception() is not None
        entry = self._entries.get(key)
        if failed and entry is not None and entry.answer is task:
            del self._entries[key]


async def _awaited(compute: Callable[[], Awaitable[Answer]]) -> Answer:
    return await compute()
