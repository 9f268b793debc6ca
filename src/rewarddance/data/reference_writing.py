"""Writing a generation of reference images, prompt by prompt: a kill loses at most the prompt at hand.

A prompt counts when its line is on the disk, and its pictures are there before it. One of which judgements had no
answer is asked again, and its later line counts; so is one whose pictures are gone or damaged since. Settings of a
generation are written first; another run with other settings is refused, as its rows would not be comparable.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewarddance.core.errors import DataError
from rewarddance.core.files import append_bytes, locked, sha256_of, sync_folder, write_bytes_atomic, write_json_atomic
from rewarddance.core.types import Status
from rewarddance.data.prompt_rows import (
    as_stored,
    cut_to_whole_lines,
    has_files,
    missing_items,
    refuse_other_settings,
    stored_settings,
    whole_lines,
)
from rewarddance.data.prompts import PromptItem
from rewarddance.data.references import (
    IMAGES_NAME,
    ROWS_NAME,
    SETTINGS_NAME,
    SUMMARY_NAME,
    PromptReferences,
    ReferenceSummary,
    generation_folder,
    prompt_key,
    references_to_row,
    rows_of,
)
from rewarddance.data.set_back import in_turn, set_back


class ReferenceWriter:
    """Adds prompts to one generation."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], generation: int = 0) -> None:
        """Begin a generation, or continue one.

        Args:
            folder: That holds every generation; created if need be.
            settings: Everything that decides the result, as JSON.
            generation: Which one.

        Raises:
            UsageError: The generation was begun with other settings.
        """
        self._place = generation_folder(folder, generation)
        self._settings = settings
        self._summary = self._place / SUMMARY_NAME
        (self._place / IMAGES_NAME).mkdir(parents=True, exist_ok=True)
        with self.alone():
            pass

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process make references in the folder meanwhile; begins with what is stored by then.

        Raises:
            UsageError: Another process does, or the generation was begun with other settings.
        """
        with locked(self._place / ROWS_NAME):
            _claim(self._place, self._settings)
            self._done = _rows_by_prompt(self._place / ROWS_NAME)
            yield

    @property
    def has_answers(self) -> bool:
        """Whether any stored candidate was judged."""
        return any(one["wins"] is not None for row in self._done.values() for one in row["candidates"])

    def missing(self, prompts: Sequence[PromptItem]) -> tuple[PromptItem, ...]:
        """Those of the prompts that have no whole row yet; of equal texts, the first. Those set back come last.

        A row is whole when it has every answer, and its pictures are there as they were written.
        """
        return in_turn(self._place, _missing(self._place, self._done, prompts))

    def set_back(self, prompt: str) -> None:
        """Ask this prompt last when the generation is continued: the judge fell silent over it."""
        set_back(self._place, prompt)

    def add(self, references: PromptReferences, images: Mapping[int, bytes]) -> None:
        """Store a prompt's tournament.

        Args:
            references: Of a prompt that is missing.
            images: PNG files of the candidates that are kept, by seed.
        """
        # A generation that grows is unfinished until it is finished again.
        self._summary.unlink(missing_ok=True)
        key = prompt_key(references.prompt)
        paths = {seed: Path(IMAGES_NAME) / f"{key}-{seed}.png" for seed in images}
        for seed, data in images.items():
            write_bytes_atomic(self._place / paths[seed], data)
        stored = replace(
            references,
            candidates=tuple(
                replace(one, image=paths[one.seed], sha256=hashlib.sha256(images[one.seed]).hexdigest())
                if one.seed in images
                else one
                for one in references.candidates
            ),
        )
        row = references_to_row(stored)
        # Pictures that were lost, and came out as before: the row stands, and with it what was made of the references.
        if self._done.get(references.prompt) == as_stored(row):
            return
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        append_bytes(self._place / ROWS_NAME, line)
        self._done[references.prompt] = row

    def finish(self, prompts: Sequence[PromptItem], resumed: int = 0) -> ReferenceSummary:
        """Declare the generation whole, and count.

        Args:
            prompts: Every one of them has a row.
            resumed: How many had one before this run.
        """
        rows = {item.id: self._done[item.prompt] for item in prompts}
        summary = ReferenceSummary(
            prompts=len(rows),
            without_references={name: row["problem"] for name, row in rows.items() if row["problem"] is not None},
            failed_judgements=sum(len(row["failures"]) for row in rows.values()),
            unanswered={name: _unanswered_in(row) for name, row in rows.items() if _unanswered_in(row)},
            resumed=resumed,
        )
        content = {
            "prompts": summary.prompts,
            "without_references": dict(summary.without_references),
            "failed_judgements": summary.failed_judgements,
            "unanswered": dict(summary.unanswered),
            "rows_sha256": sha256_of(self._place / ROWS_NAME),
        }
        write_json_atomic(self._summary, content)
        return summary


def missing_prompts(
    folder: Path, settings: Mapping[str, Any], prompts: Sequence[PromptItem], generation: int = 0
) -> tuple[PromptItem, ...]:
    """Prompts that have no whole row yet, as `ReferenceWriter.missing` finds them.

    Reads only, so it can be asked before a model loads.

    Raises:
        UsageError: The generation was begun with other settings.
    """
    place = generation_folder(folder, generation)
    _check_settings(place, settings)
    rows = whole_lines(place / ROWS_NAME)
    return _missing(place, {str(row["prompt"]): row for row in rows_of(rows, place / ROWS_NAME)}, prompts)


def _check_settings(place: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a generation that holds rows made with other settings; names what differs."""
    path = place / SETTINGS_NAME
    if not whole_lines(place / ROWS_NAME):
        return
    found = stored_settings(path)
    if found is None:
        raise DataError(f"{path} is missing or damaged; delete {place} to make the references again")
    refuse_other_settings(place, found, settings)


def _claim(place: Path, settings: Mapping[str, Any]) -> None:
    _check_settings(place, settings)
    # Without a row, an earlier run only failed to begin; its settings bind nobody.
    if not whole_lines(place / ROWS_NAME):
        write_json_atomic(place / SETTINGS_NAME, dict(settings))
        sync_folder(place.parent)


def _rows_by_prompt(path: Path) -> dict[str, dict[str, Any]]:
    """Rows that are whole; what comes after them is cut off."""
    return {str(row["prompt"]): row for row in rows_of(cut_to_whole_lines(path), path)}


def _unanswered_in(row: Mapping[str, Any]) -> int:
    return sum(failure["status"] == Status.UNANSWERED for failure in row["failures"])


def _missing(
    place: Path, rows: Mapping[str, Mapping[str, Any]], prompts: Sequence[PromptItem]
) -> tuple[PromptItem, ...]:
    return missing_items(prompts, lambda prompt: _is_whole(place, rows.get(prompt)))


def _is_whole(place: Path, row: Mapping[str, Any] | None) -> bool:
    if row is None or _unanswered_in(row):
        return False
    return has_files(place, {one["image"]: one["sha256"] for one in row["candidates"] if one["image"] is not None})
