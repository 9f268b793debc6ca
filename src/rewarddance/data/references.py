"""Reference images on disk: for every prompt the candidates of a tournament, and the pictures of those that were kept.

A folder holds one or more generations, `generation-0000` and on: the first is made before alignment, later ones by
the policy on its way. A generation has `settings.json`, `rows.jsonl` (one line a prompt, in the order in which they
were judged; of a prompt that was asked again, the last line counts), `images/` (8-bit PNG), and `summary.json`, which
is written last: without it the generation is unfinished and nobody reads it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rewarddance.core.errors import DataError
from rewarddance.core.files import sha256_of
from rewarddance.core.types import Media

ROWS_NAME, SETTINGS_NAME, SUMMARY_NAME, IMAGES_NAME = "rows.jsonl", "settings.json", "summary.json", "images"
_PREFIX = "generation-"

Kept = Literal["top", "bottom"]


@dataclass(frozen=True, slots=True)
class ReferenceCandidate:
    """One of the pictures that the generator made for a prompt.

    Attributes:
        seed: Of its initial noise.
        opponents: Candidates that it was successfully judged against.
        wins: How many of them it beat, ties counting one half; None where it could not be judged.
        reward: Mean log-odds against them; None likewise.
        kept: Whether its picture was kept, as one of the best or (for an ablation) of the worst.
        image: The picture, if it was kept; relative to the generation's folder when stored.
        sha256: Of the picture's file.
    """

    seed: int
    opponents: int
    wins: float | None
    reward: float | None
    kept: Kept | None = None
    image: Path | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class FailedJudgement:
    """A pair of candidates, or one candidate, about which the judge has nothing to say.

    Attributes:
        candidate: Seed of the candidate.
        against: Seed of the other; None when the candidate alone was at fault.
        status: How the judgement ended.
        message: One line.
    """

    candidate: int
    against: int | None
    status: str
    message: str | None = None


@dataclass(frozen=True, slots=True)
class PromptReferences:
    """The tournament of one prompt.

    Attributes:
        id: The prompt's id in its list.
        prompt: The text.
        candidates: Best first.
        failures: Judgements without a result.
        problem: Why no picture was kept, in one line; None when all is well.
    """

    id: str
    prompt: str
    candidates: tuple[ReferenceCandidate, ...]
    failures: tuple[FailedJudgement, ...] = ()
    problem: str | None = None

    def best(self, count: int | None = None) -> tuple[Media, ...]:
        """The best pictures, best first; all that were kept for None, and never more than were kept."""
        return _pictures(self.candidates, "top")[:count]

    def worst(self, count: int | None = None) -> tuple[Media, ...]:
        """The worst pictures, worst first."""
        return _pictures(self.candidates, "bottom")[::-1][:count]


@dataclass(frozen=True, slots=True)
class ReferenceSummary:
    """What became of a list of prompts.

    Attributes:
        prompts: How many there are.
        without_references: Prompts whose tournament kept no picture, by id, with the reason.
        failed_judgements: Pairs without a result, over all prompts.
        unanswered: Prompts of which pairs had no answer, by id, with how many; their tournaments are held again.
        resumed: Prompts that an earlier run had finished; not stored.
    """

    prompts: int
    without_references: Mapping[str, str] = field(default_factory=dict)
    failed_judgements: int = 0
    unanswered: Mapping[str, int] = field(default_factory=dict)
    resumed: int = 0


@dataclass(frozen=True)
class ReferenceStore:
    """One finished generation, read whole; pictures stay on disk.

    Attributes:
        folder: That holds every generation.
        generation: Which one this is.
        settings: What it was made with.
        rows: One a prompt.
    """

    folder: Path
    generation: int
    settings: Mapping[str, Any]
    rows: tuple[PromptReferences, ...]

    @classmethod
    def open(cls, folder: Path, generation: int | None = None) -> "ReferenceStore":
        """Read a generation.

        Args:
            folder: That holds every generation.
            generation: Which one; None for the last that is finished.

        Raises:
            DataError: There is none, it is unfinished, or files of it are gone or changed.
        """
        folder = folder.absolute()
        finished = finished_generations(folder)
        chosen = finished[-1] if generation is None and finished else generation
        if chosen is None or chosen not in finished:
            raise DataError(_missing(folder, chosen))
        place = generation_folder(folder, chosen)
        summary = _json(place / SUMMARY_NAME)
        content = _bytes(place / ROWS_NAME)
        if hashlib.sha256(content).hexdigest() != summary.get("rows_sha256"):
            raise DataError(f"{place / ROWS_NAME} has changed since it was finished; make the references again")
        found = (row_to_references(row, place) for row in rows_of(content, place / ROWS_NAME))
        # Of a prompt that was asked again, the later row counts.
        rows = tuple({row.prompt: row for row in found}.values())
        for media in (media for row in rows for media in (*row.best(), *row.worst())):
            if not media.path.is_file():
                raise DataError(f"{media.path} is missing; make the references again")
        return cls(folder, chosen, _json(place / SETTINGS_NAME), rows)

    @cached_property
    def _by_prompt(self) -> dict[str, PromptReferences]:
        return {row.prompt: row for row in self.rows}

    def get(self, prompt: str) -> PromptReferences | None:
        """The tournament of a prompt; None for a prompt that was never asked for."""
        return self._by_prompt.get(prompt)

    def best(self, prompt: str, count: int | None = None) -> tuple[Media, ...]:
        """The best pictures of a prompt, best first; none for a prompt without references."""
        row = self.get(prompt)
        return () if row is None else row.best(count)

    def worst(self, prompt: str, count: int | None = None) -> tuple[Media, ...]:
        """The worst pictures of a prompt, worst first; none where none were kept."""
        row = self.get(prompt)
        return () if row is None else row.worst(count)

    def lacking(self, prompts: Sequence[str], kept: Kept = "top") -> tuple[str, ...]:
        """Those of the prompts that have no reference image (of the best, or of the worst), each once."""
        of = self.best if kept == "top" else self.worst
        return tuple(dict.fromkeys(prompt for prompt in prompts if not of(prompt)))

    def changed_pictures(self, prompts: Sequence[str] | None = None) -> list[Path]:
        """Pictures of some prompts (None: of all) whose bytes are no longer those that were written; reads each."""
        rows = self.rows if prompts is None else [row for row in map(self.get, dict.fromkeys(prompts)) if row]
        kept = (media for row in rows for media in (*row.best(), *row.worst()))
        return [
            media.path
            for media in kept
            if not media.path.is_file() or (media.sha256 is not None and sha256_of(media.path) != media.sha256)
        ]

    def require_unchanged(self, prompts: Sequence[str]) -> None:
        """Stop at a reference image that is another picture than the one that was chosen.

        Raises:
            DataError: The bytes of one, or of a loser at the bottom, differ.
        """
        if changed := self.changed_pictures(prompts):
            raise DataError(
                f"{changed[0]} is no longer the picture that was chosen (its sha256 differs); "
                "put it back, or make the references again in another folder"
            )


def generation_folder(folder: Path, generation: int) -> Path:
    """Where a generation lies."""
    return folder / f"{_PREFIX}{generation:04d}"


def finished_generations(folder: Path) -> list[int]:
    """Numbers of the generations that can be read, in order."""
    numbers = (path.parent.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*/{SUMMARY_NAME}"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def forget_generations_after(folder: Path, generation: int) -> None:
    """Remove later generations, finished or not: another policy made them than the one that comes there now."""
    for path in folder.glob(f"{_PREFIX}*"):
        number = path.name.removeprefix(_PREFIX)
        if number.isdecimal() and int(number) > generation:
            shutil.rmtree(path)


def prompt_key(prompt: str) -> str:
    """A name for files that belong to a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def rows_of(content: bytes, path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a generation as they are stored.

    Args:
        content: Of `rows.jsonl`.
        path: Of that file, for the message.

    Raises:
        DataError: A line is damaged.
    """
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = dict(json.loads(line))
            row_to_references(row, path.parent)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path}: line {number} is damaged; make the references again") from None
        yield row


def references_to_row(references: PromptReferences) -> dict[str, Any]:
    """A prompt's tournament as JSON; pictures by the path that they have."""
    row = asdict(references)
    for candidate in row["candidates"]:
        candidate["image"] = None if candidate["image"] is None else candidate["image"].as_posix()
    return row


def row_to_references(row: Mapping[str, Any], folder: Path) -> PromptReferences:
    """A stored row with the pictures' paths made absolute."""
    candidates = (
        ReferenceCandidate(**{**one, "image": None if one["image"] is None else folder / one["image"]})
        for one in row["candidates"]
    )
    failures = tuple(FailedJudgement(**one) for one in row["failures"])
    return PromptReferences(row["id"], row["prompt"], tuple(candidates), failures, row["problem"])


def _pictures(candidates: Sequence[ReferenceCandidate], kept: Kept) -> tuple[Media, ...]:
    return tuple(
        Media(one.image, sha256=one.sha256) for one in candidates if one.kept == kept and one.image is not None
    )


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise DataError(f"{path} is missing or damaged; make the references again") from None


def _missing(folder: Path, generation: int | None) -> str:
    what = "references" if generation is None else f"references of generation {generation}"
    if any(folder.glob(f"{_PREFIX}*/{SETTINGS_NAME}")):
        return f"{folder} has no finished {what}; run the same `rewarddance references` again to finish them"
    return f"{folder} has no {what}; make them with `rewarddance references`"
