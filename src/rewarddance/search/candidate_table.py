"""All candidates of a finished best-of-N search as one table: what the verifier said of them, and where they are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from pydantic import TypeAdapter

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.stored_values import flaw
from rewarddance.search.output import CANDIDATES_NAME, ROWS_NAME, SETTINGS_NAME, SUMMARY_NAME

_FEWEST = 4
"""Candidates of a prompt, for best of 1, 2 and 4: two coefficients are fitted."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What is read of a candidate."""

    wins: float | None
    reward: float | None
    picture: str | None


@dataclass(frozen=True, slots=True)
class _Row:
    """What is read of a line."""

    prompt: str
    candidates: tuple[_Candidate, ...]


_ROW = TypeAdapter(_Row)


@dataclass(frozen=True, slots=True, eq=False)
class CandidateTable:
    """Candidates by prompt, in the order in which they were drawn.

    Attributes:
        prompts: One a row.
        pictures: As many for each prompt; None where there is no picture.
        rewards: The verifier's log-odds; NaN where it had no judgement.
        settings: All that decided the search, as its folder has them; `model` is the verifier's fingerprint.
    """

    prompts: tuple[str, ...]
    pictures: tuple[tuple[Path | None, ...], ...]
    rewards: Float[ndarray, "prompts samples"]
    settings: Mapping[str, Any]


def read_candidates(folder: Path) -> CandidateTable:
    """Read the folder of a `best-of-n` search that scored its candidates and kept them.

    Raises:
        DataError: There is no such search, or its rows are damaged.
        UsageError: Its candidates were not drawn independently, not scored one by one, or not kept.
    """
    try:
        settings = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
        lines = (folder / ROWS_NAME).read_text(encoding="utf-8").split("\n")[:-1]
        stored = [json.loads(line) for line in lines]
    except OSError:
        raise DataError(f"{folder} holds no search; make one with `rewarddance search best-of-n`") from None
    except ValueError:
        raise DataError(f"{folder / ROWS_NAME} is damaged; search again in another folder") from None
    for number, row in enumerate(stored, start=1):
        if (lacking := flaw(_ROW.validate_python, row)) is not None:
            raise DataError(f"{folder / ROWS_NAME}, line {number}, {lacking}; search again in another folder")
    latest = {row["prompt"]: row for row in stored}.values()
    rows = [row for row in latest if row["candidates"]]  # the generator could not read the others
    found = [row["candidates"] for row in rows]
    if not isinstance(settings, dict):
        raise DataError(f"{folder / SETTINGS_NAME} is damaged; search again in another folder")
    if settings.get("algorithm") != "best-of-n" or any(one["wins"] is not None for own in found for one in own):
        raise UsageError(f"{folder} is no best-of-n search by scores; a curve needs independent pictures, each scored")
    if not (folder / SUMMARY_NAME).is_file():
        raise DataError(f"{folder} is not finished; the same `rewarddance search` continues it")
    if not (folder / CANDIDATES_NAME).is_dir():
        raise UsageError(f"{folder} kept its winners only; search again with --keep all")
    count = max((len(own) for own in found), default=0)
    if count == 0 or any(len(own) != count for own in found):
        raise DataError(f"{folder} has no finished prompt, or prompts with fewer candidates; finish the search first")
    if count < _FEWEST:
        raise UsageError(
            f"{folder} has {count} candidates of each prompt, and a curve needs {_FEWEST} at least; "
            "search again with more --candidates"
        )
    return CandidateTable(
        prompts=tuple(str(row["prompt"]) for row in rows),
        pictures=tuple(tuple(_picture(folder, one["picture"]) for one in own) for own in found),
        rewards=np.array([[np.nan if one["reward"] is None else one["reward"] for one in own] for own in found]),
        settings=settings,
    )


def _picture(folder: Path, name: str | None) -> Path | None:
    return None if name is None else (folder / name).resolve()
