"""Judging a manifest: JSON lines in, one JSON line out for every row, continued where an earlier run stopped.

The output is written in the order of the rows and reaches the disk after every batch. A line carries a key, the hash
of its row and of the judge, so that output of another manifest or another model is refused instead of continued.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from rewarddance.cli.progress import progress
from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.types import Judgement, JudgementRequest, Status

_REQUIRED = ("prompt", "candidate")
_KNOWN = ("prompt", "candidate", "reference_image", "instruction", "id")
_KEY_LENGTH = 16

Judge = Callable[[Sequence[JudgementRequest]], list[Judgement]]


@dataclass(frozen=True, slots=True)
class Summary:
    """How a manifest went.

    Attributes:
        rows: Rows of the manifest; each has one line of output.
        failed: Rows without a score, those of earlier runs included.
        resumed: Rows that an earlier run had judged.
    """

    rows: int
    failed: int
    resumed: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Requests in a file of JSON lines.

    Attributes:
        lines: One row each, not yet parsed: a manifest may be long.
        folder: Where relative paths start.
        instruction: For rows that name none.
        judge: Whatever identifies the model; part of every key.
    """

    lines: tuple[str, ...]
    folder: Path
    instruction: str | None
    judge: str

    @classmethod
    def open(cls, path: Path, instruction: str | None, judge: str) -> "Manifest":
        """Read the lines of a manifest; empty ones do not count.

        Raises:
            DataError: No row, or not UTF-8.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text; a manifest is one JSON object a line") from error
        # Not splitlines(): a prompt may hold a Unicode line separator, which JSON leaves as it is.
        lines = tuple(line for line in text.split("\n") if line.strip())
        if not lines:
            raise DataError(f"{path} holds no rows; a manifest is one JSON object a line")
        return cls(lines, path.parent.resolve(), instruction, judge)

    def key(self, index: int) -> str:
        """Identifies a row and who judges it."""
        text = json.dumps([self.judge, self.instruction, str(self.folder), self.lines[index].strip()])
        return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]

    def request(self, index: int) -> JudgementRequest:
        """The request of a row.

        Raises:
            DataError: The row is no request; says why.
        """
        row = _parsed(self.lines[index])
        for name in _REQUIRED:
            if name not in row:
                raise DataError(f"the row has no {name!r}")
        for name, value in row.items():
            if name not in _KNOWN:
                raise DataError(f"unknown key {name!r}; a row has {', '.join(_KNOWN)}")
            if not isinstance(value, str) and (value is not None or name in _REQUIRED):
                raise DataError(f"{name!r} is not text")
        reference_image = row.get("reference_image")
        return JudgementRequest(
            prompt=str(row["prompt"]),
            candidate=self.folder / str(row["candidate"]),
            reference_image=None if reference_image is None else self.folder / str(reference_image),
            instruction=_text(row.get("instruction")) or self.instruction,
            id=_text(row.get("id")),
        )


def judge_manifest(load_judge: Callable[[], Judge], manifest: Manifest, out: Path, batch_size: int) -> Summary:
    """Judge every row that has no line in the output yet.

    Args:
        load_judge: Gives what answers a batch of requests, in order; not called when every row is judged.
        manifest: The rows.
        out: Output file; created, or continued.
        batch_size: Rows that are judged and saved together; an interruption loses at most these.

    Raises:
        UsageError: The output belongs to another manifest or another model.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    total = len(manifest.lines)
    with out.open("a+b") as file:
        resumed, failed = _continue(file, manifest, out)
        if resumed < total:
            judge = load_judge()
            with progress("judging rows", total) as show:
                for start in range(resumed, total, batch_size):
                    show(start)
                    indices = range(start, min(start + batch_size, total))
                    judgements = _judge_batch(judge, manifest, indices)
                    _append(file, manifest, indices, judgements)
                    failed += sum(not judgement.is_ok for judgement in judgements)
                show(total)
    return Summary(rows=total, failed=failed, resumed=resumed)


def _judge_batch(judge: Judge, manifest: Manifest, indices: range) -> list[Judgement]:
    judgements: dict[int, Judgement] = {}
    requests: dict[int, JudgementRequest] = {}
    for index in indices:
        try:
            requests[index] = manifest.request(index)
        except DataError as error:
            judgements[index] = Judgement(status=Status.FAILED, message=str(error))
    if requests:
        answers = zip(requests.items(), _answers(judge, list(requests.values())), strict=True)
        judgements |= {index: replace(judgement, id=request.id) for (index, request), judgement in answers}
    return [judgements[index] for index in indices]


def _answers(judge: Judge, requests: list[JudgementRequest]) -> list[Judgement]:
    """One answer a request; a request that cannot be asked (unknown criteria, no reference image) fails alone."""
    try:
        return judge(requests)
    except UsageError as error:
        if len(requests) == 1:
            return [Judgement(status=Status.FAILED, message=str(error))]
        return [answer for request in requests for answer in _answers(judge, [request])]


def _append(file: BinaryIO, manifest: Manifest, indices: range, judgements: list[Judgement]) -> None:
    for index, judgement in zip(indices, judgements, strict=True):
        line = {"row": index, "key": manifest.key(index), **asdict(judgement)}
        file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _continue(file: BinaryIO, manifest: Manifest, out: Path) -> tuple[int, int]:
    """Rows already judged and how many of them failed; cuts off a line that a kill left half written."""
    file.seek(0)
    complete_bytes, resumed, failed = 0, 0, 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        if resumed >= len(manifest.lines) or _written_key(line) != manifest.key(resumed):
            raise UsageError(
                f"{out} has judgements of another manifest, model or instruction (line {resumed + 1}); "
                "delete it or choose another --out"
            )
        failed += json.loads(line).get("status") != Status.OK
        resumed += 1
        complete_bytes += len(line)
    file.truncate(complete_bytes)
    file.seek(complete_bytes)
    return resumed, failed


def _written_key(line: bytes) -> object:
    try:
        return _parsed(line.decode()).get("key")
    except (DataError, UnicodeDecodeError):
        return None


def _parsed(line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the row is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError("the row is not a JSON object")
    return row


def _text(value: object) -> str | None:
    return None if value is None else str(value)
