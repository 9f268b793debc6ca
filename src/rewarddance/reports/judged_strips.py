"""Comparisons worth looking at: where the model is sure and right, sure and wrong, unsure, and where it failed."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from rewarddance.evaluation.judgement_rows import JudgementRow
from rewarddance.reports.numbers import decimal
from rewarddance.reports.run_files import StoredEvaluation
from rewarddance.reports.sections import Score, Section, Strip, StripImage, StripItem


def strips_section(evaluations: Sequence[StoredEvaluation], per_strip: int = 6) -> Section | None:
    """Images with what the models, people and gold say of them, chosen by the first model's answers.

    Args:
        evaluations: The first that kept its judgements decides which comparisons are shown.
        per_strip: How many at most of each sort.

    Returns:
        None when no judgements were kept, or none of their media is there any more.
    """
    kept = [evaluation for evaluation in evaluations if evaluation.rows]
    if not kept:
        return None
    name, rows = kept[0].name, [row for row in kept[0].rows if all(Path(path).is_file() for path in row.media)]
    failed = [row for row in kept[0].rows if row.failed_answer is not None]
    decided = [row for row in rows if _log_odds(row) is not None and row.target not in (None, 0.5)]
    right = [row for row in decided if _is_right(row)]
    wrong = [row for row in decided if not _is_right(row)]
    chosen = {
        "Sure and right": _first(right, _size, per_strip, is_descending=True),
        "Sure and wrong": _first(wrong, _size, per_strip, is_descending=True),
        "Unsure": _first(decided, _size, per_strip, is_descending=False),
        "Failed": failed[:per_strip],
    }
    others = [{row.id: row for row in evaluation.rows} for evaluation in kept]
    names = [evaluation.name for evaluation in kept]
    strips = tuple(
        Strip(title, tuple(_item(row, names, others) for row in picked)) for title, picked in chosen.items() if picked
    )
    intro = (
        f"Chosen by the answers of {name}. The dot shows the score, P(second is better): far left means that the first "
        "is better for certain, far right the second. A green frame marks what people chose."
    )
    return Section("Judged images", strips, intro) if strips else None


def _item(row: JudgementRow, names: Sequence[str], rows_by_id: Sequence[dict[str, JudgementRow]]) -> StripItem:
    first, second = (Path(path) for path in row.media)
    scores = [
        _score(name, rows[row.id], row.target) for name, rows in zip(names, rows_by_id, strict=True) if row.id in rows
    ]
    facts = [f"people: {_choice(row.target)}"] if row.target is not None else []
    facts += [f"gold: {'+' if row.gold > 0 else ''}{decimal(row.gold, 2)}"] if row.gold is not None else []
    failed = row.failed_answer
    facts += [f"{failed.status.value}: {failed.message}"] if failed is not None else []
    images = (
        StripImage(first, "first", is_marked=row.target is not None and row.target < 0.5),
        StripImage(second, "second", is_marked=row.target is not None and row.target > 0.5),
    )
    return StripItem(row.prompt, images, tuple(scores), tuple(facts))


def _score(name: str, row: JudgementRow, target: float | None) -> Score:
    log_odds = _log_odds(row)
    if log_odds is None:
        return Score(name, None)
    is_right = None if target is None or target == 0.5 else _is_right(row)
    return Score(name, 0.5 * (1 + math.tanh(0.5 * log_odds)), is_right)


def _first(
    rows: Sequence[JudgementRow], key: Callable[[JudgementRow], float], how_many: int, is_descending: bool
) -> list[JudgementRow]:
    """The first rows by a key, at most one a prompt."""
    by_prompt: dict[str, JudgementRow] = {}
    for row in sorted(rows, key=key, reverse=is_descending):
        by_prompt.setdefault(row.cluster, row)
    return list(by_prompt.values())[:how_many]


def _log_odds(row: JudgementRow) -> float | None:
    """From both orders where both were asked; None when one failed."""
    if row.failed_answer is not None or row.forward.log_odds is None:
        return None
    if row.backward is None or row.backward.log_odds is None:
        return row.forward.log_odds
    return 0.5 * (row.forward.log_odds - row.backward.log_odds)


def _size(row: JudgementRow) -> float:
    return abs(_log_odds(row) or 0.0)


def _is_right(row: JudgementRow) -> bool:
    return ((_log_odds(row) or 0.0) > 0) == ((row.target or 0.0) > 0.5)


def _choice(target: float) -> str:
    if target == 0.5:
        return "tie"
    return "second" if target > 0.5 else "first"
