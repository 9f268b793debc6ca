"""A manifest: JSON lines, one request each, and the line of output that each of them gets.

A line of output carries a key, the hash of its row and of the judge, so that output of another manifest or another
model is refused instead of continued. Rows are found by their place in the file: a manifest of millions of rows
takes eight bytes a row of memory.
"""

import codecs
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.types import Judgement, JudgementRequest, Status
from rewarddance.core.whole_text import is_whole_text
from rewarddance.rewards.instructions import instruction_identity

Judge = Callable[[Sequence[JudgementRequest]], list[Judgement]]

_REQUIRED = ("prompt", "candidate")
_KNOWN = ("prompt", "candidate", "reference_image", "source_media", "instruction", "id")
_CRITERIA_SUFFIXES = (".yaml", ".yml")
_KEY_LENGTH = 16


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """Requests in a file of JSON lines.

    Attributes:
        path: The file; it must not change while it is judged.
        starts: Where each row begins, in bytes.
        sha256: Of the file.
        folder: Where relative paths start.
        instruction: Name or file of criteria for rows that name none.
        judge: Whatever identifies the model; part of every key.
        identities: Hashes of the criteria that were met so far; they are read once.
    """

    path: Path
    starts: NDArray[np.int64]
    sha256: str
    folder: Path
    instruction: str | Path | None
    judge: str
    identities: dict[str | Path | None, str | None] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, instruction: str | Path | None, judge: str) -> "Manifest":
        """Find the rows of a manifest; empty lines do not count.

        Raises:
            DataError: No row, or not UTF-8.
        """
        starts: list[int] = []
        digest = hashlib.sha256()
        place = 0
        with path.open("rb") as file:
            # A line ends at a line feed and nowhere else: a prompt may hold a Unicode line separator.
            for line in file:
                mark = len(codecs.BOM_UTF8) if place == 0 and line.startswith(codecs.BOM_UTF8) else 0
                try:
                    text = line[mark:].decode()
                except UnicodeDecodeError as error:
                    raise DataError(f"{path} is not UTF-8 text; a manifest is one JSON object a line") from error
                if text.strip():
                    starts.append(place + mark)
                digest.update(line)
                place += len(line)
        if not starts:
            raise DataError(f"{path} holds no rows; a manifest is one JSON object a line")
        path = path.resolve()
        return cls(path, np.array(starts, dtype=np.int64), digest.hexdigest(), path.parent, instruction, judge)

    def __len__(self) -> int:
        return len(self.starts)

    def line(self, index: int) -> str:
        """A row as it stands in the file."""
        with self.path.open("rb") as file:
            file.seek(int(self.starts[index]))
            return file.readline().decode().strip()

    def key(self, index: int) -> str:
        """Identifies a row and who judges it."""
        line = self.line(index)
        text = json.dumps([self.judge, self._identity(line), str(self.folder), line])
        return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]

    def request(self, index: int) -> JudgementRequest:
        """The request of a row.

        Raises:
            DataError: The row is no request; says why.
        """
        row = parsed_row(self.line(index))
        _check(row)
        return JudgementRequest(
            prompt=str(row["prompt"]),
            candidate=self.folder / str(row["candidate"]),
            reference_image=self._media(row.get("reference_image")),
            instruction=self._criteria(_text(row.get("instruction"))) or self.instruction,
            id=_text(row.get("id")),
            source_media=None if row.get("source_media") is None else self.folder / str(row["source_media"]),
        )

    def output_line(self, index: int, judgement: Judgement) -> bytes:
        """The line of output of a row, with its line feed."""
        line = {"row": index, "key": self.key(index), **asdict(judgement)}
        return json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def is_begun_line(self, index: int, line: bytes) -> bool:
        """Whether half a line is the beginning of a row's line of output."""
        begins = json.dumps({"row": index, "key": self.key(index)}).encode()[:-1]
        return line[: len(begins)] == begins[: len(line)]

    def _media(self, named: object) -> Path | tuple[Path, ...] | None:
        if isinstance(named, list):
            return tuple(self.folder / str(one) for one in named) or None
        return None if named is None else self.folder / str(named)

    def _identity(self, line: str) -> str | None:
        """Of the criteria that the row is asked by: they count by their text."""
        try:
            named = _text(parsed_row(line).get("instruction"))
        except DataError:
            named = None
        asked = self._criteria(named) or self.instruction
        if asked not in self.identities:
            self.identities[asked] = instruction_identity(asked)
        return self.identities[asked]

    def _criteria(self, named: str | None) -> str | Path | None:
        return self.folder / named if named is not None and named.endswith(_CRITERIA_SUFFIXES) else named


def judge_rows(judge: Judge, manifest: Manifest, indices: Sequence[int]) -> list[Judgement]:
    """One judgement a row, in order; a row that is no request, or cannot be asked, fails alone."""
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


def parsed_row(line: str) -> dict[str, object]:
    """The object of a line.

    Raises:
        DataError: It is no JSON object.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the row is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError("the row is not a JSON object")
    return row


def written_key(line: bytes) -> object:
    """The key of a line of output; None when it is none."""
    try:
        return parsed_row(line.decode()).get("key")
    except (DataError, UnicodeDecodeError):
        return None


def is_failure(line: bytes) -> bool:
    """Whether a line of output has no score."""
    return bool(json.loads(line).get("status") != Status.OK)


def _answers(judge: Judge, requests: list[JudgementRequest]) -> list[Judgement]:
    """One answer a request; a request that cannot be asked (unknown criteria, no reference image) fails alone."""
    try:
        return judge(requests)
    except UsageError as error:
        if len(requests) == 1:
            return [Judgement(status=Status.FAILED, message=str(error))]
        return [answer for request in requests for answer in _answers(judge, [request])]


def _check(row: Mapping[str, object]) -> None:
    for name in _REQUIRED:
        if name not in row:
            raise DataError(f"the row has no {name!r}")
    for name, value in row.items():
        if name not in _KNOWN:
            raise DataError(f"unknown key {name!r}; a row has {', '.join(_KNOWN)}")
        texts = value if isinstance(value, list) and name == "reference_image" else [value]
        if not all(isinstance(text, str) or (text is None and name not in _REQUIRED) for text in texts):
            raise DataError(f"{name!r} is not text")
        if not all(is_whole_text(str(text)) for text in texts):
            raise DataError(f"{name!r} holds half a character (an unpaired surrogate)")


def _text(value: object) -> str | None:
    return None if value is None else str(value)
