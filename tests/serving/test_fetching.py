import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.serving.fetching import Fetcher, Origin, is_public
from rewarddance.serving.refusals import RefusedError
from tests.serving.stand_in import data_uri, png, running

# Every one of these has opened somebody's network: the literal, its disguises, and tricks between two parsers.
HOSTS = (
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "0",
    "0.0.0.0", "localhost", "LOCALHOST", "localhost.localdomain", "169.254.169.254", "2852039166", "0xa9fea9fe",
    "0251.0376.0251.0376", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "224.0.0.1", "255.255.255.255",
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "[fe80::1%25eth0]",
    "[fd00:ec2::254]", "metadata.google.internal", "127.0.0.1.nip.io", "①②⑦.0.0.1", "127。0。0。1", "loca%6chost",
    "media.example.org@127.0.0.1", "media.example.org:x@127.0.0.1", "127.0.0.1\\@media.example.org",
    "127.0.0.1#@media.example.org", "127.0.0.1?@media.example.org", "media.example.org\\.127.0.0.1",
    "media.example.org.", "xmedia.example.org", "media.example.org.evil.test", "sub.media.example.org",
    "media.example.org:81", "media.example.org:0443", "media.example.org%00.evil.test", "media.example.org\r\nHost: x",
    "media.example.org\t", " media.example.org", "evil.test/media.example.org",
)  # fmt: skip
VECTORS = (
    *(f"{scheme}://{host}/a.png" for scheme in ("http", "https") for host in HOSTS),
    "//127.0.0.1/a.png", "http:127.0.0.1", "http:/127.0.0.1", "http:\\\\127.0.0.1", "HTTP://127.0.0.1", "hTTps://x",
    "file:///etc/passwd", "file://localhost/etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1:6379/_INFO",
    "dict://127.0.0.1:11211/", "ldap://127.0.0.1", "jar:http://127.0.0.1!/", "data:text/html,<img src=http://127.0.0.1>",
    "/etc/passwd", "../../etc/passwd", "\\\\127.0.0.1\\share", "s3://bucket/key", "unix:///var/run/docker.sock",
)  # fmt: skip
ALLOWED = frozenset({Origin.parse("media.example.org"), Origin.parse("http://media.example.org")})


@contextmanager
def no_connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Every attempt to connect or to look up a name is written down; names of the allowlist lead to this machine."""
    attempts: list[object] = []

    def connect(self: socket.socket, address: object) -> None:
        attempts.append(address)
        raise OSError("refused")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", 80))])
    yield attempts


def test_there_are_more_than_sixty_vectors():
    assert len(set(VECTORS)) > 60


@pytest.mark.parametrize("allowed", [frozenset(), ALLOWED], ids=["off", "allowlist"])
def test_no_vector_opens_a_connection(monkeypatch: pytest.MonkeyPatch, allowed: frozenset[Origin]):
    from rewarddance.serving.incoming_media import read_medium
    from rewarddance.serving.limits import ServiceLimits

    with no_connection(monkeypatch) as attempts:
        for vector in VECTORS:
            with pytest.raises(RefusedError):
                read_medium(vector, {}, ServiceLimits().media, Fetcher(allowed), "candidate")

    assert attempts == []


def test_no_field_of_any_route_leads_to_a_connection():
    # The client's own connections go through http.client, so the canary is a listener instead of a patch.
    with socket.create_server(("127.0.0.1", 0)) as canary, running(fetcher=Fetcher(ALLOWED)) as here:
        canary.settimeout(0.2)
        address = f"http://127.0.0.1:{canary.getsockname()[1]}/a.png"
        good = data_uri(png())
        bodies = [
            ("/v1/judge", {"prompt": address, "candidate": address, "reference_images": [good]}),
            ("/v1/judge", {"prompt": "a", "candidate": good, "reference_images": [address]}),
            ("/v1/judge", {"prompt": "a", "candidate": good, "reference_images": [good], "source_media": address}),
            ("/v1/judge", {"prompt": "a", "candidate": good, "reference_images": [good], "instruction": address}),
            ("/v1/rank", {"prompt": "a", "candidates": [address, good]}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": address}}]}]}),
        ]  # fmt: skip
        statuses = [here.post(route, body).status for route, body in bodies]

        assert statuses == [422] * len(bodies)
        with pytest.raises(TimeoutError):
            canary.accept()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "100.64.1.1", "192.0.2.1", "198.18.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::808:808",
        "64:ff9b:1::1", "2002:7f00:1::", "2001:0:1::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "x", "",
    ],
)  # fmt: skip
def test_what_is_not_plainly_public_is_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"])
def test_public_addresses_are_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "text", ["*.example.org", "127.0.0.1", "example", "http://a.org/path", "a.org:0", "0x7f.1", ""]
)
def test_an_allowlist_takes_exact_host_names_only(text: str):
    with pytest.raises(UsageError, match="is no host"):
        Origin.parse(text)


class _Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/a.png")
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/zipped":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        try:
            if self.path == "/drip":
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            else:
                self.wfile.write(b"x" * 100)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def fetcher(site: int) -> Fetcher:
    """Allowed to fetch from one host; its public address leads to the local site."""
    return Fetcher(
        ALLOWED,
        max_bytes=200,
        resolve=lambda host, port: ["8.8.8.8"],
        connect=lambda address, port, seconds: socket.create_connection(("127.0.0.1", site), seconds),
    )


def test_an_allowed_host_is_fetched_from_the_address_that_was_checked(fetcher: Fetcher, site: int):
    asked: list[str] = []

    def connect(address: str, port: int, seconds: float) -> socket.socket:
        asked.append(address)
        return socket.create_connection(("127.0.0.1", site), seconds)

    pinned = replace(fetcher, connect=connect)
    assert pinned.fetch("http://media.example.org/a.png") == b"x" * 100
    assert asked == ["8.8.8.8"]


def test_a_host_is_looked_up_once_so_a_second_answer_cannot_differ(fetcher: Fetcher):
    answers = iter([["8.8.8.8"], ["127.0.0.1"]])
    replace(fetcher, resolve=lambda host, port: next(answers)).fetch("http://media.example.org/a.png")

    assert next(answers) == ["127.0.0.1"]


@pytest.mark.parametrize("answer", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:8.8.8.8"], []])
def test_one_private_answer_refuses_the_host(fetcher: Fetcher, answer: list[str]):
    def connect(address: str, port: int, seconds: float) -> socket.socket:
        raise AssertionError(f"connected to {address}")

    with pytest.raises(RefusedError, match="does not fetch"):
        replace(fetcher, resolve=lambda host, port: answer, connect=connect).fetch("http://media.example.org/a.png")


@pytest.mark.parametrize("path", ["/moved", "/zipped"])
def test_redirects_and_compressed_answers_do_not_exist(fetcher: Fetcher, path: str):
    with pytest.raises(RefusedError, match="could not be fetched"):
        fetcher.fetch(f"http://media.example.org{path}")


def test_a_large_answer_is_cut_off(fetcher: Fetcher):
    with pytest.raises(RefusedError, match="more bytes"):
        replace(fetcher, max_bytes=99).fetch("http://media.example.org/a.png")


def test_a_host_that_drips_meets_the_deadline(fetcher: Fetcher):
    start = time.monotonic()
    with pytest.raises(RefusedError, match="could not be fetched"):
        replace(fetcher, seconds=0.3).fetch("http://media.example.org/drip")

    assert time.monotonic() - start < 3


def answering(write) -> Iterator[int]:
    """A site that reads a request and then writes as it is told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.recv(65_536)
                    write(connection)
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def drip_head(connection: socket.socket) -> None:
    for letter in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 60:
        connection.send(bytes([letter]))
        time.sleep(0.05)


def drip_noise(connection: socket.socket) -> None:
    """In the middle of what should be a handshake."""
    connection.send(b"\x16\x03\x03\x40\x00")  # a record of 16 KiB is announced
    for _ in range(60):
        connection.send(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize(("scheme", "write"), [("http", drip_head), ("https", drip_noise)])
def test_a_head_or_a_handshake_that_drips_meets_the_deadline(fetcher: Fetcher, scheme: str, write):
    with contextmanager(answering)(write) as port:
        slow = replace(
            fetcher,
            seconds=0.3,
            connect=lambda address, _, seconds: socket.create_connection(("127.0.0.1", port), seconds),
        )
        start = time.monotonic()
        with pytest.raises(RefusedError, match="could not be fetched"):
            slow.fetch(f"{scheme}://media.example.org/a.png")

        assert time.monotonic() - start < 2


def test_whoever_gives_up_earlier_ends_the_fetching(fetcher: Fetcher):
    with contextmanager(answering)(drip_head) as port:
        slow = replace(
            fetcher,
            ends_at=time.monotonic() + 0.3,
            connect=lambda address, _, seconds: socket.create_connection(("127.0.0.1", port), seconds),
        )
        with pytest.raises(RefusedError, match="the deadline passed"):
            slow.fetch("http://media.example.org/a.png")


def test_a_deadline_counts_the_fetching_too(fetcher: Fetcher):
    """An address of 0.6 seconds, and half a second for everything."""

    def connect(address: str, port: int, seconds: float) -> socket.socket:
        time.sleep(0.6)
        return fetcher.connect(address, port, seconds)

    body = {"prompt": "a", "candidates": ["http://media.example.org/a.png", data_uri(png())], "deadline_seconds": 0.5}
    with running(fetcher=replace(fetcher, connect=connect)) as here:
        started = time.monotonic()
        reply = here.post("/v1/rank", body)
        assert (reply.status, reply.code) == (504, "deadline_exceeded")
        assert time.monotonic() - started < 2


def test_an_answer_that_is_shorter_than_it_says_is_no_medium(fetcher: Fetcher):
    def write(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 99)

    with contextmanager(answering)(write) as port:
        cut = replace(
            fetcher, connect=lambda address, _, seconds: socket.create_connection(("127.0.0.1", port), seconds)
        )
        with pytest.raises(RefusedError, match="could not be fetched"):
            cut.fetch("http://media.example.org/a.png")
