"""Who may ask. A dependency of every route: a check by path would be only as good as the path's parsing."""

import hashlib
import hmac
import ipaddress
import os
from dataclasses import dataclass

from starlette.requests import Request

from rewarddance.core.errors import UsageError
from rewarddance.serving.refusals import RefusalCode, RefusedError

TOKEN_VARIABLE = "REWARDDANCE_TOKEN"

_MIN_TOKEN_LENGTH = 16
_SCHEME = "bearer"


def token_for(host: str) -> str | None:
    """The token of a service that listens on a host, from the environment; never from the command line.

    Args:
        host: Address to listen on.

    Raises:
        UsageError: The address can be reached from other machines and there is no token, or it is too short.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and (len(token) < _MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable()):
        raise UsageError(f"{TOKEN_VARIABLE} needs {_MIN_TOKEN_LENGTH} or more printable ASCII characters")
    if token is None and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines; set a token in {TOKEN_VARIABLE}, or listen on 127.0.0.1"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name other than localhost may be anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Knows who may ask.

    Attributes:
        digest: Of the token that clients must send; None lets everyone in, on loopback only.
    """

    digest: bytes | None

    @classmethod
    def of(cls, token: str | None) -> "Authenticator":
        """For a token, which is not kept."""
        return cls(None if token is None else _digest(token.encode()))

    def allows(self, authorization: str) -> bool:
        """Whether a request may be answered.

        Args:
            authorization: The value of its header; empty for none.
        """
        if self.digest is None:
            return True
        scheme, _, given = authorization.partition(" ")
        # Digests have one length, so the comparison tells nothing about the token.
        return scheme.lower() == _SCHEME and hmac.compare_digest(_digest(given.encode()), self.digest)

    async def __call__(self, request: Request) -> None:
        """The dependency of every route.

        Raises:
            RefusedError: The token is missing or wrong.
        """
        if not self.allows(request.headers.get("authorization", "")):
            raise RefusedError(RefusalCode.UNAUTHORIZED)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
