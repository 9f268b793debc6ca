import socket
import time

import pytest

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
