"""The protocol of a connection, with the bounds that uvicorn's lacks, and an end for those that send no request.

uvicorn's parser in C costs a third of the time of the one in Python, which is what a refusal consists of, but puts no
bound on a head. And there is a time-out for idle connections after an answer, and none for a head that arrives byte by
byte: two hundred of those would stay open for ever.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rewarddance.serving.limits import ServiceLimits

_SWEEP_SECONDS = 0.5
_MAX_HEAD_BYTES = 32_768
_VERSIONS = ("1.0", "1.1")


class ServiceProtocol(HttpToolsProtocol):
    """HTTP of one connection.

    Attributes:
        is_in_body: Whether the head of a request is there and the end of its body is not.
    """

    is_in_body = False
    _unread = 0

    def data_received(self, data: bytes) -> None:
        """Parse bytes; too many that are neither a whole head nor body are refused, and the connection ends."""
        self._unread += len(data)
        super().data_received(data)
        if self._unread > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Invalid HTTP request received.")

    def on_headers_complete(self) -> None:
        """A head is there; one of another protocol is refused like everything that cannot be parsed."""
        if self.parser.get_http_version() not in _VERSIONS:
            raise httptools.HttpParserError("not HTTP 1")
        self._unread, self.is_in_body = 0, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bytes of a body are there; names of chunks and trailing headers are none."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there as a whole."""
        self._unread, self.is_in_body = 0, False
        super().on_message_complete()


@dataclass(slots=True)
class ConnectionSweeper:
    """Closes connections that are between requests for too long.

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
            seconds = self.limits.discard_seconds if connection.is_in_body else self.limits.header_seconds
            if now - since > seconds:
                connection.transport.abort()
            else:
                idle[connection] = (cycle, since)
        self._idle_since = idle
