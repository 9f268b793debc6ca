"""Oversize, endless, slow and compressed bodies, from raw sockets: no library keeps the client honest."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import pytest

from rewarddance.serving.limits import ServiceLimits
from tests.serving.stand_in import Running, judge_body, running

KIB = 1_024
LIMITS = ServiceLimits(
    max_body_bytes=64 * KIB, max_buffered_bytes=96 * KIB, body_seconds=0.4, discard_seconds=0.5, drain_seconds=0.0
)


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running(limits=LIMITS) as here:
        yield here


def head(*lines: str) -> bytes:
    return "\r\n".join(
        ["POST /v1/judge HTTP/1.1", "Host: x", "Content-Type: application/json", *lines, "", ""]
    ).encode()


def status_of(connection: socket.socket) -> int:
    connection.settimeout(10)
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(4096)
        assert received, "the connection was closed without an answer"
        data += received
    return int(data.split()[1])


def connect(served: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port))


@pytest.mark.parametrize("declared", [str(64 * KIB + 1), "99999999999", "9" * 17])
def test_a_body_that_declares_too_much_is_refused_from_its_head(served: Running, declared: str):
    with connect(served) as connection:
        connection.sendall(head(f"Content-Length: {declared}"))

        assert status_of(connection) == 413


def test_a_chunked_body_is_cut_off_at_the_limit(served: Running):
    sent = 0
    with connect(served) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        connection.setblocking(False)
        answer = b""
        # The body never ends; the answer must come after no more than the limit and what was on its way.
        while b"\r\n\r\n" not in answer:
            with contextlib.suppress(BlockingIOError):
                answer += connection.recv(4096)
            if sent < 4 * 1_024 * KIB:
                try:
                    sent += connection.send(b"1000\r\n" + b"a" * 4096 + b"\r\n")
                except BlockingIOError:
                    time.sleep(0.001)

    assert int(answer.split()[1]) == 413


def test_a_body_of_the_allowed_size_is_read(served: Running):
    body = json.dumps(judge_body()).encode()
    padded = body + b" " * (64 * KIB - len(body))

    assert served.ask("POST", "/v1/judge", padded, {"content-type": "application/json"}).status == 200
    too_long = served.ask("POST", "/v1/judge", padded + b" ", {"content-type": "application/json"})
    assert (too_long.status, too_long.code) == (413, "body_too_large")


def test_a_body_that_drips_is_given_up(served: Running):
    with connect(served) as connection:
        connection.sendall(head("Content-Length: 1000") + b"{")
        start = time.monotonic()

        assert status_of(connection) == 408
        assert time.monotonic() - start < 5


def test_a_form_is_counted_like_everything_else(served: Running):
    form = b"--e\r\n" + b"x" * (70 * KIB)
    reply = served.ask("POST", "/v1/judge", form, {"content-type": "multipart/form-data; boundary=e"})

    assert reply.code == "body_too_large"


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"--e--",
        b"no boundary at all",
        b"--e\r\nContent-Disposition: form-data\r\n\r\nx\r\n--e--\r\n",
        b'--e\r\nContent-Disposition: form-data; name="request"\r\n\r\n{}',
        b'--e\r\nContent-Disposition: form-data; name="other"\r\n\r\n{}\r\n--e--\r\n',
        b'--e\r\nContent-Disposition: form-data; name="a"\r\n\r\n{}\r\n' * 40 + b"--e--\r\n",
        b"--e\r\n" + b"\xff\x00: \x01\r\n" * 30 + b"\r\n--e--",
    ],
)
@pytest.mark.parametrize(
    "kind", ["multipart/form-data; boundary=e", "multipart/form-data", "multipart/form-data; boundary="]
)
def test_a_damaged_form_is_a_clients_error(served: Running, form: bytes, kind: str):
    reply = served.ask("POST", "/v1/judge", form, {"content-type": kind})

    assert reply.status == 400
    assert "0x" not in str(reply.body)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "application/json", "content-encoding": "br"},
    ],
)
def test_other_types_and_compressed_bodies_are_not_read(served: Running, headers: dict[str, str]):
    assert served.ask("POST", "/v1/judge", b"{}", headers).code == "unsupported_content"


def test_bodies_share_one_budget_and_give_it_back(served: Running):
    with connect(served) as slow:
        slow.sendall(head(f"Content-Length: {60 * KIB}") + b" " * (50 * KIB))
        end = time.monotonic() + 5
        while served.service._budget.held < 50 * KIB:
            assert time.monotonic() < end
            time.sleep(0.005)
        body = json.dumps(judge_body()).encode()
        crowded = served.ask("POST", "/v1/judge", body + b" " * (60 * KIB), {"content-type": "application/json"})

        assert (crowded.status, crowded.code) == (429, "busy")
        assert status_of(slow) == 408
    assert served.service._budget.held == 0
    assert served.post("/v1/judge", judge_body()).status == 200
