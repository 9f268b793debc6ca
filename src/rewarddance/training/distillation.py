"""A teacher answers the comparisons of a run, once, before the student sees them.

Every answer is a line of a file as soon as it is given, so that a killed run asks only what is missing. Of several
processes each asks its own share and writes its own file; then all read all of them.

Source:
    Z-Reward, arXiv:2606.09076 (RISD): the teacher's distribution after reasoning becomes the student's one token.
    Differs: averaged over the teacher's rationales and over both orders of showing, the orders in log-odds as
    everywhere here; people's choices keep a share of the loss.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rewarddance.config.reasoning import DistillationConfig
from rewarddance.core.errors import DataError
from rewarddance.core.files import errors_named, sha256_of
from rewarddance.core.fingerprints import model_fingerprint
from rewarddance.core.types import Comparison, Judgement, JudgementRequest, Status
from rewarddance.rewards.folder import RECORD_NAME
from rewarddance.rewards.protocol import RewardModel
from rewarddance.rewards.reasoning_settings import ReasoningSettings
from rewarddance.training.learning_data import ChosenComparisons
from rewarddance.training.pause_points import reached
from rewarddance.training.prepared_batches import Share
from rewarddance.training.teaching import Teaching

_AT_ONCE = 16

_log = logging.getLogger(__name__)


def teach(
    settings: DistillationConfig,
    seed: int,
    comparisons: ChosenComparisons,
    folder: Path,
    share: Share,
    load_teacher: Callable[[], RewardModel],
    wait_for_everyone: Callable[[], None],
) -> Teaching:
    """Every comparison of the run with the teacher's answer.

    Args:
        settings: How the teacher is asked.
        seed: Decides what it writes.
        comparisons: To be answered.
        folder: The run directory; what stands there already is not asked again.
        share: Which process this is.
        load_teacher: Called only when something is missing; the teacher is let go afterwards.
        wait_for_everyone: Returns when every process has come this far.

    Raises:
        DataError: The teacher could answer none of them.
    """
    header = {
        # Without what is left out: keys that came later leave the answers of earlier runs as they are.
        "settings": settings.model_dump(mode="json", exclude_none=True),
        "teacher": _teacher_fingerprint(settings),
        "seed": seed,
        "comparisons": comparisons.sha256,
    }
    mine = _file(folder, share.rank)
    known = _read(mine, header)
    asked = range(share.rank, len(comparisons), share.processes)
    missing = [index for index in asked if index not in known]
    if not known:
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text(json.dumps(header) + "\n", encoding="utf-8")
    if missing:
        _ask(load_teacher(), _reasoning(settings, seed), comparisons, missing, mine)
    wait_for_everyone()
    rows = {index: row for rank in range(share.processes) for index, row in _read(_file(folder, rank), header).items()}
    is_judged = np.array([comparisons[index].target is not None for index in range(len(comparisons))])
    teaching = _teaching(rows, is_judged)
    if teaching.count == 0:
        raise DataError(f"the teacher {settings.teacher} gave no answer to any comparison: {teaching.failures}")
    if teaching.failures:
        _log.warning(
            "the teacher gave no answer to %s; there the choice alone is learned, or nothing", teaching.failures
        )
    return teaching


def _teacher_fingerprint(settings: DistillationConfig) -> str:
    record = Path(settings.teacher).expanduser() / RECORD_NAME
    if record.is_file():
        return sha256_of(record)  # it holds the hashes of the weights
    return model_fingerprint(settings.teacher, None, settings.teacher_revision, settings.teacher_kind)


def _reasoning(settings: DistillationConfig, seed: int) -> ReasoningSettings | None:
    if settings.format == "answer_first":
        return None
    return ReasoningSettings(
        samples=settings.samples,
        temperature=settings.sampling_temperature,
        max_tokens=settings.max_tokens,
        seed=seed,
    )


def _ask(
    teacher: RewardModel,
    reasoning: ReasoningSettings | None,
    comparisons: ChosenComparisons,
    missing: Sequence[int],
    path: Path,
) -> None:
    with errors_named(path), path.open("a", encoding="utf-8") as file:
        for start in range(0, len(missing), _AT_ONCE):
            chunk = missing[start : start + _AT_ONCE]
            shown = [_candidate_second(comparisons[index]) for index in chunk]
            judgements = teacher.judge([_request(row) for _, row in shown], "two", reasoning=reasoning)
            for index, (sign, _), judgement in zip(chunk, shown, judgements, strict=True):
                file.write(json.dumps(_row(index, sign, judgement)) + "\n")
            file.flush()
            os.fsync(file.fileno())
            reached("teacher:answered")


def _candidate_second(comparison: Comparison) -> tuple[float, Comparison]:
    """The side with several media, if there is one, is the reference; and the sign that this gives the answer."""
    return (-1.0, comparison.swapped()) if comparison.beside_second else (1.0, comparison)


def _request(comparison: Comparison) -> JudgementRequest:
    return JudgementRequest(
        prompt=comparison.prompt,
        candidate=comparison.second,
        reference_image=(comparison.first, *comparison.beside_first),
        instruction=comparison.instruction,
        id=comparison.id,
        source_media=comparison.source_media,
    )


def _row(index: int, sign: float, judgement: Judgement) -> dict[str, Any]:
    reward = judgement.reward if judgement.is_ok else None
    is_ok = reward is not None and math.isfinite(reward)
    return {
        "index": index,
        "id": judgement.id,
        "status": str(judgement.status if is_ok or not judgement.is_ok else Status.NON_FINITE),
        "log_odds": sign * reward if reward is not None and is_ok else None,
        "generated_tokens": 0 if judgement.cost is None else judgement.cost.generated_tokens,
        "rationale": judgement.rationale,
    }


def _read(path: Path, header: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Rows by index; none of a file that was written for other settings. A line that a kill cut short is taken off."""
    if not path.is_file():
        return {}
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if not whole or json.loads(whole[0]) != header:
        return {}
    if len(whole) < len(lines):
        # In place: between emptying a file and writing it anew, a kill would take every answer.
        os.truncate(path, sum(map(len, whole)))
    rows = [json.loads(line) for line in whole[1:]]
    return {int(row["index"]): row for row in rows}


def _teaching(rows: dict[int, dict[str, Any]], is_judged: npt.NDArray[np.bool_]) -> Teaching:
    log_odds = np.full(len(is_judged), np.nan)
    failures: dict[str, int] = {}
    for index, row in rows.items():
        if row["log_odds"] is None:
            failures[row["status"]] = failures.get(row["status"], 0) + 1
        else:
            log_odds[index] = row["log_odds"]
    return Teaching(log_odds, is_judged, sum(int(row["generated_tokens"]) for row in rows.values()), failures)


def _file(folder: Path, rank: int) -> Path:
    return folder / ("teacher_answers.jsonl" if rank == 0 else f"teacher_answers_{rank}.jsonl")
