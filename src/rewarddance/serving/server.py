"""Listening and stopping. SIGTERM: not ready, then no new connections, then the end, when all answers are out."""

import asyncio
import contextlib
import logging
import math
import resource
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from rewarddance.core.errors import UsageError
from rewarddance.serving.app import build_app
from rewarddance.serving.authentication import Authenticator, is_loopback
from rewarddance.serving.connections import ConnectionSweeper
from rewarddance.serving.overload import OverloadGate
from rewarddance.serving.service import Service

_POLL_SECONDS = 0.02
_MAX_HEAD_BYTES = 32_768
_BACKLOG = 2_048
_SWITCH_SECONDS = 5e-4
"""For which a thread that reads bodies keeps the interpreter while the event loop waits for it. A refusal needs it
several times, and at Python's own 5 ms would take longer than it may."""


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: Address or name.
        port: 0 for any free one.

    Raises:
        UsageError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, which this one does not, and
    # without it the body of an answer waits 40 ms for the client to acknowledge the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def run_service(service: Service, listener: socket.socket, token: str | None) -> None:
    """Serve until a signal, and drain.

    Args:
        service: Not running yet.
        listener: Where to listen; closed in the end.
        token: What every request must carry.

    Raises:
        UsageError: The address is not loopback and there is no token.
        RewardDanceError: The model could not be loaded.
    """
    if token is None and not is_loopback(listener.getsockname()[0]):
        raise UsageError("an address that other machines reach needs a token")
    _allow_open_files(service.limits.max_connections)
    asyncio.run(serve_on(service, listener, token, _stop_on_signals))
    if service.failure is not None:
        raise service.failure


async def serve_on(
    service: Service, listener: socket.socket, token: str | None, started: Callable[[Callable[[], None]], None]
) -> None:
    """Serve until told to stop; `run_service` is this with signals.

    Args:
        service: Not running yet.
        listener: Where to listen; closed in the end.
        token: What every request must carry.
        started: Called in the event loop before the first request is taken, with what stops: once to drain, twice at
            once.
    """
    limits = service.limits
    # It writes a line for every damaged form, so that a stranger could fill the disk.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        OverloadGate(build_app(service, token), service, Authenticator.of(token)),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        limit_concurrency=limits.max_connections,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        timeout_graceful_shutdown=math.ceil(limits.deadline_seconds),
    )
    server = uvicorn.Server(config)
    # Its own handlers stop listening at once, and end the process by the signal instead of with 0.
    setattr(server, "capture_signals", contextlib.nullcontext)  # noqa: B010 (no method is assigned to, says mypy)
    service.on_failure = lambda: setattr(server, "should_exit", True)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    sweeping = asyncio.create_task(ConnectionSweeper(limits).run(server.server_state.connections))
    draining: list[asyncio.Task[None]] = []

    def stop() -> None:
        if draining:
            server.force_exit = server.should_exit = True
        else:
            draining.append(asyncio.create_task(_drain(service, server)))

    switch_seconds = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        # The tasks have not run yet: a signal that comes with the first request finds its handler.
        started(stop)
        await running
    finally:
        sys.setswitchinterval(switch_seconds)
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping


def _stop_on_signals(stop: Callable[[], None]) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop)


async def _drain(service: Service, server: uvicorn.Server) -> None:
    """Tells whoever routes requests here to stop, answers what was taken, and ends."""
    service.is_draining = True
    loop = asyncio.get_running_loop()
    end = loop.time() + service.limits.deadline_seconds
    await asyncio.sleep(service.limits.drain_seconds)
    while not service.is_idle and loop.time() < end:
        await asyncio.sleep(_POLL_SECONDS)
    server.should_exit = True


def _allow_open_files(connections: int) -> None:
    """Raise the soft limit of open files: at 1,024, a few slow clients would use up all of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
