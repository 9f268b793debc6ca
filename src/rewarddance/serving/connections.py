"""Connections that send no request: a client that drips a head, or a refused body, is cut off.

uvicorn has a time-out for idle connections after an answer, and none for a head that arrives byte by byte. Two hundred
of those would otherwise stay open for ever.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import h11

from rewarddance.serving.limits import ServiceLimits

_SWEEP_SECONDS = 0.5


@dataclass(slots=True)
class ConnectionSweeper:
    """Closes connections of uvicorn's h11 protocol that are between requests for too long.

    Attributes:
        limits: `header_seconds` for a head, `discard_seconds` for the rest of a refused body.
    """

    limits: ServiceLimits
    _idle_since: dict[Any, tuple[object, float]] = field(default_factory=dict)

    async def run(self, connections: Iterable[Any]) -> None:
        """Sweep until cancelled.

        Args:
            connections: The server's own set, which changes.
        """
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.sweep(list(connections), time.monotonic())

    def sweep(self, connections: Iterable[Any], now: float) -> None:
        """Close what has been idle for too long; a new request starts the time again.

        Args:
            connections: Those that are open.
            now: Seconds on a clock that never goes back.
        """
        idle = {}
        for connection in connections:
            cycle = connection.cycle
            if cycle is not None and not cycle.response_complete:
                continue
            last_cycle, since = self._idle_since.get(connection, (cycle, now))
            if last_cycle is not cycle:
                since = now
            is_sending_body = cycle is not None and connection.conn.their_state is h11.SEND_BODY
            if now - since > (self.limits.discard_seconds if is_sending_body else self.limits.header_seconds):
                connection.transport.abort()
            else:
                idle[connection] = (cycle, since)
        self._idle_since = idle
