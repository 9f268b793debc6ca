"""Every exchange with a teacher or with a judge of rationales, kept as it comes: nothing is lost, nothing asked twice.

One JSON line each, on the disk before the next is waited for. Half a line at the end, which is what a kill leaves, is
cut off when the file is opened again, so that the next line does not join it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from pydantic import TypeAdapter, ValidationError

from rewarddance.core.errors import DataError
from rewarddance.core.files import append_durably, lock_file, sync_folder

EXCHANGES_NAME = "exchanges.jsonl"

Role = Literal["teacher", "judge"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one question.

    Attributes:
        asked: The text that was sent, images as `[image 1]`.
        text: What was said; None when nothing usable was.
        failure: Name of the kind of failure; None with a usable reply.
        message: One line on what went wrong.
        is_final: Whether asking again would be no use: a reply, or a refusal.
        tries: How often it was asked.
        raw_text: What was said, where it is not what is used.
        prompt_tokens: Tokens read, if the service told.
        generated_tokens: Tokens written, if the service told.
    """

    asked: str
    text: str | None
    failure: str | None = None
    message: str | None = None
    is_final: bool = True
    tries: int = 1
    raw_text: str | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A reply with what it was about.

    Attributes:
        role: Who was asked.
        key: Hash of everything that the reply depends on.
        comparison_id: Which comparison it was about.
        asked_of: Which service and model.
        reply: What came of it.
    """

    role: Role
    key: str
    comparison_id: str
    asked_of: str
    reply: Reply


_ADAPTER = TypeAdapter(Exchange)


class ExchangeStore:
    """The exchanges of a folder; one process at a time writes to it."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, which is made when it is missing.

        Raises:
            UsageError: Another process has it open.
            DataError: A line before the last is damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / EXCHANGES_NAME
        self._file: IO[bytes] = self.path.open("a+b")
        try:
            lock_file(self._file, self.path)
            self._known = self._read()
        except BaseException:
            self._file.close()
            raise
        sync_folder(folder)

    def __enter__(self) -> "ExchangeStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write."""
        self._file.close()

    def find(self, role: Role, key: str) -> Reply | None:
        """The newest reply to a question; None if it was never asked."""
        found = self._known.get((role, key))
        return None if found is None else found.reply

    def add(self, exchange: Exchange) -> None:
        """Store an exchange; it is on the disk when this returns."""
        append_durably(self._file, json.dumps(asdict(exchange), allow_nan=False).encode() + b"\n")
        self._known[exchange.role, exchange.key] = exchange

    def _read(self) -> dict[tuple[Role, str], Exchange]:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        known: dict[tuple[Role, str], Exchange] = {}
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                exchange = _ADAPTER.validate_python(json.loads(line))
            except (ValueError, ValidationError):
                raise DataError(f"{self.path}, line {number}, is no exchange; restore it, or remove the line") from None
            known[exchange.role, exchange.key] = exchange
        return known


def exchange_key(*parts: str | int | float | Mapping[str, Any] | None) -> str:
    """Hash of everything that a reply depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:32]
