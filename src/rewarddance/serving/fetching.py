"""Media from addresses: off unless the operator names hosts, and then only from exactly those.

Every project that fetched a client's address has been tricked into asking its own network. So there is one parser,
a pattern that knows no user names, no backslashes, no escapes and no numeric hosts; the host is resolved once; every
address that it has must be a public one; the connection goes to an address that was checked, not to the name; and
redirects, proxies and compressed answers do not exist.
"""

import http.client
import ipaddress
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache

from rewarddance.core.errors import UsageError
from rewarddance.serving.refusals import RefusalCode, RefusedError

_ADDRESS = re.compile(
    r"(https?)://([a-z0-9-]+(?:\.[a-z0-9-]+)+)(?::([1-9][0-9]{0,4}))?(/[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*)?"
)
_ALLOWED = re.compile(r"(?:(https?)://)?([a-z0-9-]+(?:\.[a-z0-9-]+)+)(?::([1-9][0-9]{0,4}))?")
_PORTS = {"http": 80, "https": 443}
_CHUNK_BYTES = 1 << 16
_MAX_ADDRESS_LENGTH = 2_048

# IPv6 ranges that stand for IPv4 addresses: a gateway on the way may turn them into private ones.
_TRANSLATED = tuple(ipaddress.ip_network(name) for name in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where media may come from: scheme, host and port, all three exact."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """An operator's `host`, `host:port` or `scheme://host:port`; https and its own port unless given.

        Raises:
            UsageError: Not a plain host name; a wildcard, say, or an IP address.
        """
        found = _ALLOWED.fullmatch(text.lower())
        if found is None or _is_numeric(found[2]):
            raise UsageError(
                f"{text!r} is no host to fetch from; write it as media.example.org or http://host.org:8080"
            )
        scheme = found[1] or "https"
        return cls(scheme, found[2], int(found[3] or _PORTS[scheme]))


def resolve(host: str, port: int) -> list[str]:
    """Every IP address of a host, as text."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def connect(address: str, port: int, seconds: float) -> socket.socket:
    """A TCP connection to an IP address."""
    return socket.create_connection((address, port), timeout=seconds)


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches from an allowlist.

    Attributes:
        allowed: The only origins; empty fetches nothing.
        max_bytes: Of one medium.
        seconds: For everything, from the first look-up to the last byte.
        ends_at: When whoever asked for the medium gives up, on the monotonic clock.
        resolve: Host and port to IP addresses.
        connect: IP address, port and seconds to a socket.
    """

    allowed: frozenset[Origin] = frozenset()
    max_bytes: int = 12 * 2**20
    seconds: float = 10.0
    ends_at: float = math.inf
    resolve: Callable[[str, int], Sequence[str]] = resolve
    connect: Callable[[str, int, float], socket.socket] = connect

    def fetch(self, address: str) -> bytes:
        """The bytes behind an address; blocks.

        Raises:
            RefusedError: Not on the list, not public, no plain answer of the right size in time, or `ends_at` is over.
        """
        found = _ADDRESS.fullmatch(address) if len(address) <= _MAX_ADDRESS_LENGTH else None
        if found is None:
            raise RefusedError(RefusalCode.MEDIA_HOST_NOT_ALLOWED)
        origin = Origin(found[1], found[2], int(found[3] or _PORTS[found[1]]))
        if origin not in self.allowed:
            raise RefusedError(RefusalCode.MEDIA_HOST_NOT_ALLOWED)
        deadline = min(time.monotonic() + self.seconds, self.ends_at)
        try:
            return self._get(origin, self._checked_address(origin), found[4] or "/", deadline)
        except (OSError, http.client.HTTPException, ValueError):
            is_over = time.monotonic() >= self.ends_at
            raise RefusedError(RefusalCode.DEADLINE_EXCEEDED if is_over else RefusalCode.MEDIA_FETCH_FAILED) from None

    def _checked_address(self, origin: Origin) -> str:
        addresses = self.resolve(origin.host, origin.port)
        # One private answer among public ones is how a rebinding resolver starts, so all of them must be public.
        if not addresses or not all(is_public(address) for address in addresses):
            raise RefusedError(RefusalCode.MEDIA_HOST_NOT_ALLOWED)
        return addresses[0]

    def _get(self, origin: Origin, address: str, target: str, deadline: float) -> bytes:
        with self.connect(address, origin.port, _left(deadline)) as plain, _cut_off(plain, _left(deadline)):
            plain.settimeout(_left(deadline))
            secure = _tls().wrap_socket(plain, server_hostname=origin.host) if origin.scheme == "https" else plain
            connection = http.client.HTTPConnection(origin.host, origin.port)
            connection.sock = secure
            try:
                connection.request("GET", target, headers={"Accept-Encoding": "identity", "Connection": "close"})
                answer = connection.getresponse()
                if answer.status != http.client.OK or answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise RefusedError(RefusalCode.MEDIA_FETCH_FAILED)
                return self._body(answer, secure, deadline)
            finally:
                connection.close()

    def _body(self, answer: http.client.HTTPResponse, stream: socket.socket, deadline: float) -> bytes:
        data = bytearray()
        while True:
            # `read1` returns what is there: a host that drips bytes meets the deadline, not a time-out for each.
            stream.settimeout(_left(deadline))
            chunk = answer.read1(_CHUNK_BYTES)
            if not chunk:
                _left(deadline)  # a connection that was cut off ends like a whole one
                if answer.length:
                    raise http.client.IncompleteRead(bytes(data), answer.length)
                return bytes(data)
            data += chunk
            if len(data) > self.max_bytes:
                raise RefusedError(RefusalCode.MEDIA_TOO_LARGE)


@contextmanager
def _cut_off(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Ends a connection after a time: a handshake or a head that drips keeps every single read in time."""
    # TLS takes the socket over, so the end needs a handle of its own.
    with connection.dup() as handle:

        def end() -> None:
            with suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, and is not another one in disguise.

    Args:
        address: IPv4 or IPv6, perhaps with a zone.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id is not None or found.ipv4_mapped is not None or int(found) < 2**32:
            return False
        if any(found in network for network in _TRANSLATED):
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def _is_numeric(host: str) -> bool:
    """Whether a resolver may take a name for an IP address: 127.1, 0x7f.1, 0177.0.0.1."""
    return re.fullmatch(r"(?:0x[0-9a-f]*|[0-9]+)", host.rpartition(".")[2]) is not None


@cache
def _tls() -> ssl.SSLContext:
    """Certificates and host names are checked; reading the authorities takes a while, so it is done once."""
    return ssl.create_default_context()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
