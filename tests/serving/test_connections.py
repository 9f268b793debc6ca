import contextlib
import re
import socket
import time

import psutil
import pytest

import rewarddance.serving.server
from rewarddance.serving.limits import ServiceLimits
from tests.serving.stand_in import judge_body, running

HEAD = b"POST /v1/judge HTTP/1.1\r\nHost: x\r\n"


def is_closed(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(1024) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def drip(connection: socket.socket, data: bytes, seconds: float) -> bool:
    """Sends a byte now and then; whether the other side closes meanwhile."""
    end = time.monotonic() + seconds
    place = 0
    while time.monotonic() < end:
        try:
            connection.send(data[place % len(data) : place % len(data) + 1])
        except OSError:
            return True
        place += 1
        if is_closed(connection, 0.05):
            return True
    return False


def test_a_head_that_drips_is_cut_off():
    limits = ServiceLimits(header_seconds=0.3, drain_seconds=0.0)
    with running(limits=limits) as here, socket.create_connection(("127.0.0.1", here.port)) as connection:
        assert drip(connection, HEAD + b"a" * 10_000, 5)


def test_without_the_limit_a_head_may_drip():
    limits = ServiceLimits(header_seconds=1e9, drain_seconds=0.0)
    with running(limits=limits) as here, socket.create_connection(("127.0.0.1", here.port)) as connection:
        assert not drip(connection, HEAD + b"a" * 10_000, 1.5)


def test_a_connection_that_says_nothing_is_cut_off():
    limits = ServiceLimits(header_seconds=0.3, drain_seconds=0.0)
    with running(limits=limits) as here, socket.create_connection(("127.0.0.1", here.port)) as connection:
        assert is_closed(connection, 5)


def test_the_rest_of_a_refused_body_is_not_read_for_ever():
    limits = ServiceLimits(max_body_bytes=100, discard_seconds=0.3, drain_seconds=0.0)
    with running(limits=limits) as here, socket.create_connection(("127.0.0.1", here.port)) as connection:
        lines = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(HEAD + lines + b"80\r\n" + b"a" * 128 + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")

        assert drip(connection, b"1\r\na\r\n", 6)


def test_two_hundred_slow_clients_leave_room_for_a_healthy_one():
    # The open sockets outnumber the queue many times; none of them holds a place in it.
    limits = ServiceLimits(queue_comparisons=4, max_connections=400, drain_seconds=0.0)
    with running(limits=limits) as here:
        slow = [socket.create_connection(("127.0.0.1", here.port)) for _ in range(200)]
        try:
            body = b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
            for number, connection in enumerate(slow):
                connection.send(HEAD + body if number % 2 else HEAD)
            statuses = [here.post("/v1/judge", judge_body()).status for _ in range(10)]
        finally:
            for connection in slow:
                connection.close()

    assert statuses == [200] * 10


def test_connections_beyond_the_limit_are_refused():
    with running(limits=ServiceLimits(max_connections=3, drain_seconds=0.0)) as here:
        held = [socket.create_connection(("127.0.0.1", here.port)) for _ in range(3)]
        time.sleep(0.1)
        refused = here.get("/health")
        for connection in held:
            connection.close()

    assert refused.status == 503


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x00\xa5\x01\x00", b"GET /\r\n\r\n", b"\r\n\r\nGARBAGE\r\n\r\n"])
def test_what_is_no_http_gets_an_error_without_details(noise: bytes):
    with running() as here, socket.create_connection(("127.0.0.1", here.port)) as connection:
        connection.sendall(noise)
        connection.settimeout(10)
        answer = connection.recv(4096)

    assert answer.startswith(b"HTTP/1.1 400")
    assert b"0x" not in answer


MANY = 2_000_000
JSON = b"Content-Type: application/json\r\n"
ENDLESS = {
    "a header": HEAD + b"X: " + b"a" * MANY,
    "headers": HEAD + b"X: a\r\n" * (MANY // 6),
    "an address": b"POST /" + b"a" * MANY,
    "the name of a chunk": HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * MANY,
    "headers after a body": HEAD
    + JSON
    + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
    + b"X: a\r\n" * (MANY // 6),
}


def unread_answer(port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """What comes back while a part of the data is not even taken; empty when nothing does."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(seconds)
        try:
            connection.sendall(data)
            return connection.recv(4096)
        except TimeoutError:
            return b""
        except OSError:
            return b"cut off"


@pytest.mark.parametrize("data", ENDLESS.values(), ids=list(ENDLESS))
def test_what_is_neither_head_nor_body_is_bounded(data: bytes):
    with running() as here:
        answer = unread_answer(here.port, data)
        assert here.get("/health").status == 200

    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413", b"cut off"))


@pytest.mark.parametrize("data", ENDLESS.values(), ids=list(ENDLESS))
def test_without_the_bound_it_would_be_read(data: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rewarddance.serving.server, "_MAX_HEAD_BYTES", 2 * MANY)
    limits = ServiceLimits(body_seconds=30.0, drain_seconds=0.0)
    with running(limits=limits) as here:
        assert unread_answer(here.port, data, seconds=1.0) == b""


def test_a_refused_body_that_is_there_as_a_whole_leaves_the_connection_open():
    limits = ServiceLimits(max_body_bytes=100, discard_seconds=0.3, drain_seconds=0.0)
    with running(limits=limits) as here, socket.create_connection(("127.0.0.1", here.port)) as connection:
        connection.settimeout(5)
        for _ in range(2):
            connection.sendall(HEAD + JSON + b"Content-Length: 200\r\n\r\n" + b"a" * 200)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 413")
            time.sleep(1.2)


def test_two_requests_in_one_piece_get_two_answers_in_order():
    with running() as here, socket.create_connection(("127.0.0.1", here.port)) as connection:
        connection.settimeout(5)
        connection.sendall(
            b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"404"]


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Transfer-Encoding: identity, chunked, x\r\n",
        b"Content-Length : 2\r\n",
        b"Content-Length: -2\r\n",
        b" Content-Length: 2\r\n",
    ],
)
def test_a_length_that_two_readers_would_read_differently_is_refused(lines: bytes):
    with running() as here, socket.create_connection(("127.0.0.1", here.port)) as connection:
        connection.settimeout(5)
        connection.sendall(HEAD + JSON + lines + b"\r\n{}")
        answer = connection.recv(4096)

    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 415"))


def test_the_body_of_a_request_for_another_protocol_is_no_request():
    with running() as here, socket.create_connection(("127.0.0.1", here.port)) as connection:
        connection.settimeout(5)
        hidden = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        upgrade = b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
        connection.sendall(HEAD + JSON + upgrade + b"Content-Length: %d\r\n\r\n" % len(hidden))
        time.sleep(0.2)
        answer = b""
        try:
            connection.sendall(hidden)
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        except OSError:
            pass  # cut off

    assert b'"status": "ok"' not in answer
    assert b'{"status":"ok"}' not in answer


def test_requests_without_a_pause_do_not_pile_up():
    """A flood on one connection is answered one by one; what is not answered yet is not parsed."""
    flood = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000
    with running() as here, socket.create_connection(("127.0.0.1", here.port)) as connection:
        connection.settimeout(0.5)
        before = psutil.Process().memory_info().rss
        with contextlib.suppress(OSError):
            for _ in range(20):
                connection.sendall(flood)
        assert psutil.Process().memory_info().rss - before < 50 * 2**20
        assert here.get("/health").status == 200


def test_trailing_headers_are_no_headers():
    token = "a-token-of-sixteen-or-more"
    body = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nAuthorization: Bearer " + token.encode() + b"\r\n\r\n"
    with running(token=token) as here, socket.create_connection(("127.0.0.1", here.port)) as connection:
        connection.settimeout(5)
        connection.sendall(HEAD + JSON + body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")
