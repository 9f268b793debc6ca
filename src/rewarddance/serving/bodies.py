"""Request bodies: counted while they arrive, bounded in bytes and time, and paid for out of one common budget."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.refusals import RefusalCode, RefusedError

REQUEST_PART = "request"

_JSON, _FORM = "application/json", "multipart/form-data"
_ENCODINGS = ("", "identity")


@dataclass(slots=True)
class ByteBudget:
    """Bytes that all open requests may hold together; slow and queued ones are paid for as well.

    Attributes:
        max_bytes: The budget.
        held: What is taken at the moment.
    """

    max_bytes: int
    held: int = 0

    @contextmanager
    def lease(self) -> Iterator["Lease"]:
        """A share that grows with a body and is given back when its request ends."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self.held -= lease.taken


@dataclass(slots=True)
class Lease:
    """The share of one request."""

    budget: ByteBudget
    taken: int = 0

    def take(self, size: int) -> None:
        """Grow.

        Raises:
            RefusedError: Others hold the budget.
        """
        if self.budget.held + size > self.budget.max_bytes:
            raise RefusedError(RefusalCode.BUSY, retry_after_seconds=1)
        self.budget.held += size
        self.taken += size


@dataclass(frozen=True, slots=True)
class Body:
    """A body that is there as a whole.

    Attributes:
        raw: As it was received.
        json: The typed half, not yet parsed.
        parts: Files of a form, by name.
    """

    raw: bytes
    json: bytes
    parts: dict[str, bytes] = field(default_factory=dict)


async def read_body(request: Request, limits: ServiceLimits, lease: Lease) -> Body:
    """Receive a body.

    Args:
        request: Nothing of its body has been read yet.
        limits: Bytes and seconds.
        lease: Pays for the bytes.

    Raises:
        RefusedError: Too large, too slow, compressed, of another type, or a damaged form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (_JSON, _FORM) or request.headers.get("content-encoding", "").lower() not in _ENCODINGS:
        raise RefusedError(RefusalCode.UNSUPPORTED_CONTENT)
    try:
        async with asyncio.timeout(limits.body_seconds):
            data = await _received(request, limits.max_body_bytes, lease)
    except TimeoutError:
        raise RefusedError(RefusalCode.BODY_TOO_SLOW) from None
    except ClientDisconnect:
        raise RefusedError(RefusalCode.INVALID_REQUEST) from None
    return Body(data, data) if kind == _JSON else await _form(request, data, limits)


async def _received(request: Request, max_bytes: int, lease: Lease) -> bytes:
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > 18 or int(declared) > max_bytes:
        raise RefusedError(RefusalCode.BODY_TOO_LARGE)
    # A chunked body declares nothing and a length may lie, so what counts is what has arrived.
    data = bytearray()
    async for chunk in request.stream():
        if len(data) + len(chunk) > max_bytes:
            raise RefusedError(RefusalCode.BODY_TOO_LARGE)
        lease.take(len(chunk))
        data += chunk
    return bytes(data)


async def _form(request: Request, data: bytes, limits: ServiceLimits) -> Body:
    """Parts of a form, parsed from bytes that are already bounded."""

    async def whole() -> AsyncGenerator[bytes, None]:
        yield data

    max_files = limits.max_candidates + limits.max_references + 1
    try:
        # The starlette parser raises KeyError for a type without a boundary and AssertionError for a part without one.
        form = await MultiPartParser(
            request.headers, whole(), max_files=max_files, max_fields=1, max_part_size=limits.max_body_bytes
        ).parse()
    except (MultiPartException, KeyError, ValueError, AssertionError):
        raise RefusedError(RefusalCode.INVALID_MULTIPART) from None
    try:
        parts = {}
        for name, value in form.multi_items():
            if name in parts:
                raise RefusedError(RefusalCode.INVALID_MULTIPART)
            parts[name] = await value.read() if isinstance(value, UploadFile) else str(value).encode()
    finally:
        await form.close()
    json = parts.pop(REQUEST_PART, None)
    if json is None:
        raise RefusedError(RefusalCode.INVALID_MULTIPART)
    return Body(data, json, parts)
