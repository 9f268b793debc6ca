"""What a model answered to each comparison, one JSON line each, so that a long evaluation can be continued.

A row holds all that the figures need: a report or a paired test can be made again from `judgements.jsonl` alone.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rewarddance.core.errors import DataError
from rewarddance.core.files import errors_named, write_text_atomic
from rewarddance.core.stored_values import flaw
from rewarddance.core.types import Choice, Comparison, JudgementCost, Media, Status
from rewarddance.rewards.instructions import instruction_identity

ROWS_NAME = "judgements.jsonl"

_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one question about two media.

    Attributes:
        status: How the judgement ended.
        log_odds: Log-odds that the medium in the second slot is better; None unless the status is ok.
        leaked_mass: Probability in [0, 1] outside yes and no, if the model tells.
        message: One line on what went wrong.
        instruction: Name of the criteria that were used.
        instruction_sha256: Hex digest of their text.
        rationale: The model's reasons, when it was asked for them.
        cost: What the answer took; None when the model was not asked, and in rows of earlier versions.
    """

    status: Status
    log_odds: float | None = None
    leaked_mass: float | None = None
    message: str | None = None
    instruction: str | None = None
    instruction_sha256: str | None = None
    rationale: str | None = None
    cost: JudgementCost | None = None


@dataclass(frozen=True, slots=True)
class JudgementRow:
    """One comparison with the model's answers.

    Attributes:
        id: The comparison's id.
        key: Hash of what was asked and of whom; a row with another key is not reused.
        cluster: Hash of the prompt; comparisons of one prompt are not independent.
        prompt: Beginning of the prompt, for people.
        media: Paths of first and second medium.
        forward: Answer with the media as stored.
        backward: Answer with the media swapped; None when only one order is asked.
        target: People's preference for the second medium in [0, 1]; None when nobody judged.
        gold: True preference, second minus first; known in the lab only.
        dimensions: People's choice per dimension.
        facets: Values to report on separately, such as `{"source": "hpdv3", "split": "test"}`.
    """

    id: str
    key: str
    cluster: str
    prompt: str
    media: tuple[str, str]
    forward: Answer
    backward: Answer | None
    target: float | None = None
    gold: float | None = None
    dimensions: Mapping[str, Choice] = field(default_factory=dict)
    facets: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed_answer(self) -> Answer | None:
        """The first answer that is not ok; None when all are."""
        answers = (self.forward, *([self.backward] if self.backward else []))
        return next((answer for answer in answers if answer.status is not Status.OK), None)

    @property
    def cost(self) -> JudgementCost | None:
        """Of all its answers; None where none is known."""
        costs = [answer.cost for answer in (self.forward, self.backward) if answer is not None and answer.cost]
        return sum(costs, JudgementCost()) if costs else None


_SHAPE = TypeAdapter(JudgementRow)


def row_key(comparison: Comparison, fingerprint: str, orders: str) -> str:
    """Hash of everything that an answer depends on.

    Args:
        comparison: What is asked about.
        fingerprint: What identifies the model, such as the hash of its weights.
        orders: Which orders are asked.
    """
    media = [_identity(one) for one in (comparison.first, comparison.second)]
    if comparison.source_media is not None:
        media.append(_identity(comparison.source_media))
    beside = [_identity(one) for one in comparison.beside_first]
    criteria = instruction_identity(comparison.instruction)
    asked = [fingerprint, orders, comparison.prompt, criteria, media, *([beside] if beside else [])]
    return _digest(json.dumps(asked))


def cluster_of(comparison: Comparison) -> str:
    """Hash of the prompt; of group or id where there is no prompt."""
    return _digest(comparison.prompt or comparison.group_id or comparison.id)


def shown_prompt(comparison: Comparison) -> str:
    """The prompt, shortened to what a page shows."""
    prompt = comparison.prompt
    return prompt if len(prompt) <= _SHOWN_CHARACTERS else prompt[: _SHOWN_CHARACTERS - 1] + "…"


def read_rows(path: Path) -> list[JudgementRow]:
    """Rows of `judgements.jsonl`; a last line that was cut off by a crash is left out.

    Args:
        path: The file; it may be missing, which is no rows.

    Raises:
        DataError: A line is whole and no row; says what it lacks. Or a line before the last is not whole.
    """
    if not path.is_file():
        return []
    # Bytes, because a crash may cut a letter in two; and not splitlines() of text, which would also split at the
    # Unicode line separators that a prompt may hold.
    lines = path.read_bytes().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            stored = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise DataError(f"{path}, line {number}, is not a judgement. Delete the file to ask again.") from error
        if (lacking := flaw(_SHAPE.validate_python, stored)) is not None:
            raise DataError(f"{path}, line {number}, {lacking}. Delete the file to ask again.")
        try:
            rows.append(_row_from(stored))
        except TypeError as error:
            problem = f"has a value that this version does not know ({error})"
            raise DataError(f"{path}, line {number}, {problem}. Delete the file to ask again.") from error
    return rows


def write_rows(path: Path, rows: Iterable[JudgementRow]) -> None:
    """Replace the file by these rows."""
    write_text_atomic(path, "".join(map(_line, rows)))


def append_rows(path: Path, rows: Iterable[JudgementRow]) -> None:
    """Add rows to the end of the file."""
    with errors_named(path), path.open("a", encoding="utf-8") as file:
        file.write("".join(map(_line, rows)))


def _line(row: JudgementRow) -> str:
    # Escaped to ASCII: a prompt may hold half a surrogate pair, which UTF-8 cannot.
    return json.dumps(asdict(row), allow_nan=False) + "\n"


def _row_from(stored: dict[str, Any]) -> JudgementRow:
    backward = stored.pop("backward")
    return JudgementRow(
        forward=_answer_from(stored.pop("forward")),
        backward=None if backward is None else _answer_from(backward),
        media=tuple(stored.pop("media")),
        **stored,
    )


def _answer_from(stored: dict[str, Any]) -> Answer:
    cost = stored.pop("cost", None)
    return Answer(status=Status(stored.pop("status")), cost=None if cost is None else JudgementCost(**cost), **stored)


def _identity(media: Media) -> str:
    return media.sha256 or str(media.path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]
