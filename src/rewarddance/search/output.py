"""The folder of a search, written prompt by prompt: a kill loses at most the prompt at hand.

`settings.json` comes first, and another search with other settings is refused. A prompt counts when its line in
`rows.jsonl` is on the disk; its winner, its strip and its candidates are there before it. A prompt of which judgements
had no answer is searched again, and its later line counts; so is one whose pictures are gone or damaged since.
`contact_sheet.png`, `budget.json` and `summary.json` are written when every prompt is done.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rewarddance.core.errors import DataError
from rewarddance.core.files import append_bytes, locked, sync_folder, write_bytes_atomic, write_json_atomic
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
from rewarddance.data.references import prompt_key
from rewarddance.data.set_back import in_turn, set_back
from rewarddance.search.budget import Budget
from rewarddance.search.contact_sheet import stacked, strip_of
from rewarddance.search.pictures import is_whole, picture_of, png_of
from rewarddance.search.results import SearchResult
from rewarddance.search.rows import UNREAD, budget_of, failures_in, is_readable, row_of, unanswered_in, watch_of
from rewarddance.search.watch import Watch, WatchSummary, summarise

SETTINGS_NAME, ROWS_NAME, SHEET_NAME = "settings.json", "rows.jsonl", "contact_sheet.png"
BUDGET_NAME, SUMMARY_NAME = "budget.json", "summary.json"
WINNERS_NAME, CANDIDATES_NAME, STRIPS_NAME = "winners", "candidates", "strips"

Keep = Literal["all", "winners"]


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """What became of a list of prompts.

    Attributes:
        prompts: How many there are.
        without_winner: Prompts of which no candidate could be judged, by id, with the reason.
        failed_judgements: Pictures of which the verifier had nothing to say, over all prompts.
        failures: How candidates failed, with how many did; a service whose list of tokens lacks an answer fails at the
            pictures that it is surest of (`no_answer`).
        unread: Prompts with candidates of that kind, by id, with how many: their winner may not be the best.
        unanswered: Prompts of which judgements had no answer, by id, with how many; they are searched again.
        stated: Evaluations announced.
        spent: Evaluations counted.
        watch: What the held-out judge saw; None without one.
        watch_spent: Evaluations of watching.
        resumed: Prompts that an earlier run had finished; not stored.
    """

    prompts: int
    without_winner: Mapping[str, str] = field(default_factory=dict)
    failed_judgements: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    unanswered: Mapping[str, int] = field(default_factory=dict)
    stated: Budget = field(default_factory=Budget)
    spent: Budget = field(default_factory=Budget)
    watch: WatchSummary | None = None
    watch_spent: Budget = field(default_factory=Budget)
    resumed: int = 0


class SearchWriter:
    """Adds prompts to a search."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], keep: Keep = "all") -> None:
        """Begin a search, or continue one.

        Args:
            folder: Created if need be.
            settings: Everything that decides the result, as JSON.
            keep: Whether pictures of all candidates are written, or of winners only.

        Raises:
            UsageError: The search was begun with other settings.
        """
        self._folder = folder
        self._settings = settings
        self._keep = keep
        for name in (WINNERS_NAME, CANDIDATES_NAME, STRIPS_NAME) if keep == "all" else (WINNERS_NAME, STRIPS_NAME):
            (folder / name).mkdir(parents=True, exist_ok=True)
        with self.alone():
            pass

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process search in the folder meanwhile; begins with what is stored by then.

        Raises:
            UsageError: Another process does, or the search was begun with other settings.
        """
        with locked(self._folder / ROWS_NAME):
            check_settings(self._folder, self._settings)
            if stored_settings(self._folder / SETTINGS_NAME) != as_stored(self._settings):
                self._forget_all()
            self._done = _rows_by_prompt(self._folder / ROWS_NAME)
            yield

    @property
    def verifier_has_answered(self) -> bool:
        """Whether any stored candidate was judged."""
        return any(one["reward"] is not None for row in self._done.values() for one in row["candidates"])

    @property
    def judge_has_answered(self) -> bool:
        """Whether the held-out judge answered for any stored prompt."""
        watches = [row["watch"] for row in self._done.values()]
        return any(watch is not None and watch["judge_gain"] is not None for watch in watches)

    def missing(self, prompts: Sequence[PromptItem]) -> tuple[PromptItem, ...]:
        """Those of the prompts that have no whole row yet; of equal texts, the first. Those set back come last.

        A row is whole when it has every answer, and its pictures are there as they were written.
        """
        return in_turn(self._folder, _without(self._folder, self._done, prompts))

    def set_back(self, prompt: str) -> None:
        """Ask this prompt last when the search is continued: a judge fell silent over it."""
        set_back(self._folder, prompt)

    def add(self, item: PromptItem, result: SearchResult, watch: Watch | None = None, unanswered: int = 0) -> None:
        """Store the search of a prompt.

        Args:
            item: One of those that are missing.
            result: Its search.
            watch: What the held-out judge saw, if there is one.
            unanswered: Judgements to which there was no answer.
        """
        for name in (SUMMARY_NAME, BUDGET_NAME, SHEET_NAME):  # true of fewer prompts
            (self._folder / name).unlink(missing_ok=True)
        key = prompt_key(item.prompt)
        if item.prompt in self._done:
            self._forget_pictures(key)
        pictures, files = self._picture_names(result, key), {f"{STRIPS_NAME}/{key}.png": png_of(strip_of(result))}
        files |= {name: png_of(picture_of(result.candidates[index].pixels)) for index, name in pictures.items()}
        if result.winner is not None:
            name = f"{WINNERS_NAME}/{key}.png"
            files[name] = png_of(picture_of(result.winner.pixels))
            pictures.setdefault(result.order[0], name)
        for name, data in files.items():
            write_bytes_atomic(self._folder / name, data)
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        row = row_of(item, result, watch, pictures, digests, unanswered)
        if self._done.get(item.prompt) == as_stored(row):  # pictures that were lost came out as before
            return
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        append_bytes(self._folder / ROWS_NAME, line)
        self._done[item.prompt] = row

    def finish(self, prompts: Sequence[PromptItem], resumed: int = 0) -> SearchSummary:
        """Write the contact sheet, the budget and the summary.

        Args:
            prompts: Every one of them has a row.
            resumed: How many had one before this run.
        """
        rows = {item.prompt: self._done[item.prompt] for item in prompts}
        summary = _summary(list(rows.values()), resumed)
        strips = [self._folder / STRIPS_NAME / f"{prompt_key(prompt)}.png" for prompt in rows]
        write_bytes_atomic(self._folder / SHEET_NAME, png_of(stacked(strips)))
        budget = {name: asdict(getattr(summary, name)) for name in ("stated", "spent", "watch_spent")}
        by_prompt = {row["id"]: {name: row[name] for name in ("stated", "spent")} for row in rows.values()}
        write_json_atomic(self._folder / BUDGET_NAME, {**budget, "by_prompt": by_prompt})
        content = asdict(summary)
        del content["resumed"]
        write_json_atomic(self._folder / SUMMARY_NAME, content)
        return summary

    def _forget_all(self) -> None:
        """No row binds to other settings, or they would have been refused: what they left behind goes."""
        for prompt in _rows_by_prompt(self._folder / ROWS_NAME):
            self._forget_pictures(prompt_key(prompt))
        os.truncate(self._folder / ROWS_NAME, 0)
        write_json_atomic(self._folder / SETTINGS_NAME, dict(self._settings))
        sync_folder(self._folder)

    def _forget_pictures(self, key: str) -> None:
        """Another search of the prompt may have no winner, or fewer candidates."""
        for name in (WINNERS_NAME, CANDIDATES_NAME):
            for path in (self._folder / name).glob(f"{key}*.png"):
                path.unlink()

    def _picture_names(self, result: SearchResult, key: str) -> dict[int, str]:
        """Files of the candidates that are kept, by index."""
        if self._keep == "winners":
            return {}
        whole = (index for index, candidate in enumerate(result.candidates) if is_whole(candidate.pixels))
        return {index: f"{CANDIDATES_NAME}/{key}-{index:03d}.png" for index in whole}


def missing_prompts(folder: Path, settings: Mapping[str, Any], prompts: Sequence[PromptItem]) -> tuple[PromptItem, ...]:
    """Prompts that have no whole row yet. Reads only: it can be asked before a model loads.

    Raises:
        UsageError: The search was begun with other settings.
    """
    check_settings(folder, settings)
    path = folder / ROWS_NAME
    return _without(folder, {str(row["prompt"]): row for row in _rows(whole_lines(path), path)}, prompts)


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that holds rows made with other settings; names what differs.

    Raises:
        UsageError: The search was begun with other settings.
    """
    rows = folder / ROWS_NAME
    # A prompt that is asked again anyway binds nobody: a wrongly set up service may have answered none.
    if all(unanswered_in(row) for row in _rows(whole_lines(rows), rows)):
        return
    found = stored_settings(folder / SETTINGS_NAME)
    if found is None:
        raise DataError(f"{folder / SETTINGS_NAME} is missing or damaged; search again in another folder")
    refuse_other_settings(folder, found, settings)


def _summary(rows: Sequence[Mapping[str, Any]], resumed: int) -> SearchSummary:
    watches = [watch_of(row["watch"]) for row in rows if row["watch"] is not None]
    failures = [failures_in(row) for row in rows]
    return SearchSummary(
        prompts=len(rows),
        without_winner={row["id"]: row["problem"] for row in rows if row["winner"] is None},
        failed_judgements=sum(row["failed_judgements"] for row in rows),
        failures=dict(sorted(sum(failures, Counter()).items())),
        unread={row["id"]: own[UNREAD] for row, own in zip(rows, failures, strict=True) if own[UNREAD]},
        unanswered={row["id"]: unanswered_in(row) for row in rows if unanswered_in(row)},
        stated=sum((budget_of(row["stated"]) for row in rows), Budget()),
        spent=sum((budget_of(row["spent"]) for row in rows), Budget()),
        watch=summarise(watches) if watches else None,
        watch_spent=sum((watch.spent for watch in watches), Budget()),
        resumed=resumed,
    )


def _without(
    folder: Path, rows: Mapping[str, Mapping[str, Any]], prompts: Sequence[PromptItem]
) -> tuple[PromptItem, ...]:
    return missing_items(prompts, lambda prompt: _is_whole(folder, rows.get(prompt)))


def _is_whole(folder: Path, row: Mapping[str, Any] | None) -> bool:
    return row is not None and not unanswered_in(row) and has_files(folder, _files_of(row))


def _files_of(row: Mapping[str, Any]) -> dict[str, str | None]:
    """Files of a stored row with their sha256, which rows of earlier versions do not have."""
    if "files" in row:
        return dict(row["files"])
    key = prompt_key(row["prompt"])
    winner = [] if row["winner"] is None else [f"{WINNERS_NAME}/{key}.png"]
    kept = [one["picture"] for one in row["candidates"] if one["picture"] is not None]
    return dict.fromkeys([*winner, *kept, f"{STRIPS_NAME}/{key}.png"])


def _rows_by_prompt(path: Path) -> dict[str, Mapping[str, Any]]:
    """Rows that are whole; what comes after them is cut off."""
    return {str(row["prompt"]): row for row in _rows(cut_to_whole_lines(path), path)}


def _rows(content: bytes, path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = dict(json.loads(line))
        except (ValueError, TypeError):
            row = {}
        if not is_readable(row):
            raise DataError(f"{path}: line {number} is damaged; search again in another folder")
        rows.append(row)
    return rows
