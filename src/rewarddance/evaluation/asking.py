"""Put comparisons to a model, each in both orders, and keep every answer as it comes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.types import Comparison, Judgement, JudgementRequest, Status
from rewarddance.evaluation.judgement_rows import (
    Answer,
    JudgementRow,
    append_rows,
    cluster_of,
    read_rows,
    row_key,
    shown_prompt,
    write_rows,
)

Orders = Literal["both", "as_stored"]
"""Ask each comparison in both orders, or only as it is stored (half the time, no position bias figures)."""


@runtime_checkable
class Judge(Protocol):
    """The part of a reward model that is measured."""

    def judge(self, requests: Sequence[JudgementRequest], *, order_mode: Literal["one"]) -> list[Judgement]:
        """One judgement a request, in order, each from a single question."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of comparisons beside the comparisons themselves, each in their order.

    Attributes:
        gold: True preference, second minus first; lab only.
        facets: Values by which to report separately, such as `{"split": ["test", ...]}`; `source` is always added.
    """

    gold: Sequence[float | None] | None = None
    facets: Mapping[str, Sequence[str | None]] = field(default_factory=dict)


def judge_comparisons(
    model: Judge,
    comparisons: Sequence[Comparison],
    known: Known,
    *,
    orders: Orders = "both",
    rows_path: Path | None = None,
    fingerprint: str = "",
    comparisons_at_once: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[JudgementRow]:
    """Ask a model about every comparison that it has not yet been asked about.

    Args:
        model: What is measured.
        comparisons: With unique ids.
        known: Gold differences and facets.
        orders: Both orders, or only the stored one.
        rows_path: Where answers are kept as they come. Answers already there to the same question of the same model
            are not asked again; others are removed from the file.
        fingerprint: What identifies the model, so that answers of another one are not taken for its own.
        comparisons_at_once: How many go to the model before their answers are written.
        on_progress: Called with the number of comparisons that are done, and of all.

    Returns:
        One row a comparison, in order.

    Raises:
        DataError: No comparisons, or two with the same id.
        UsageError: Gold or a facet has another length than the comparisons.
    """
    blank = _blank_rows(comparisons, known, fingerprint, orders)
    done = {row.id: row for row in _kept_answers(blank, rows_path)}
    missing = [index for index, row in enumerate(blank) if row.id not in done]
    for start in range(0, len(missing), comparisons_at_once):
        _report(on_progress, len(done), len(blank))
        chunk = missing[start : start + comparisons_at_once]
        rows = _ask(model, [comparisons[index] for index in chunk], [blank[index] for index in chunk], orders)
        if rows_path is not None:
            append_rows(rows_path, rows)
        done.update((row.id, row) for row in rows)
    _report(on_progress, len(done), len(blank))
    return [done[row.id] for row in blank]


def refuse_other_answers(rows_path: Path, comparisons: Sequence[Comparison], fingerprint: str, orders: Orders) -> None:
    """Keep `judge_comparisons` from removing somebody's work; reads one file, so it can be asked before a model loads.

    Args:
        rows_path: Where answers are to be kept; it may be missing.
        comparisons: What the model will be asked about.
        fingerprint: What identifies the model.
        orders: Which orders will be asked.

    Raises:
        UsageError: The file holds an answer to another question, or of another model.
    """
    expected = {(comparison.id, row_key(comparison, fingerprint, orders)) for comparison in comparisons}
    if any((row.id, row.key) not in expected for row in read_rows(rows_path)):
        raise UsageError(
            f"{rows_path} holds answers of another model, or to other comparisons or orders; "
            "choose another --out, or delete it"
        )


def _ask(
    model: Judge, comparisons: Sequence[Comparison], blank: Sequence[JudgementRow], orders: Orders
) -> list[JudgementRow]:
    # The two orders of a comparison stand together, so that a model which works through them in pieces finds both
    # media in its hands the second time.
    shown = [(one, one.swapped()) if orders == "both" else (one,) for one in comparisons]
    questions = [_request(one) for both in shown for one in both]
    judgements = model.judge(questions, order_mode="one")
    if len(judgements) != len(questions):
        raise UsageError(
            f"The model gave {len(judgements)} judgements to {len(questions)} requests; it must give one each."
        )
    answers = [_answer(judgement) for judgement in judgements]
    forward = answers[:: len(shown[0])]
    backward: Sequence[Answer | None] = answers[1::2] if orders == "both" else [None] * len(blank)
    return [
        replace(row, forward=first, backward=second)
        for row, first, second in zip(blank, forward, backward, strict=True)
    ]


def _request(comparison: Comparison) -> JudgementRequest:
    if comparison.beside_second:
        raise UsageError(f"comparison {comparison.id} has several candidates; ask about it in its stored order only")
    return JudgementRequest(
        prompt=comparison.prompt,
        candidate=comparison.second,
        reference_image=(comparison.first, *comparison.beside_first) if comparison.beside_first else comparison.first,
        instruction=comparison.instruction,
        id=comparison.id,
        source_media=comparison.source_media,
    )


def _answer(judgement: Judgement) -> Answer:
    if judgement.is_ok and (judgement.reward is None or not math.isfinite(judgement.reward)):
        return Answer(Status.NON_FINITE, message="the reward is not a finite number", cost=judgement.cost)
    return Answer(
        status=judgement.status,
        log_odds=judgement.reward if judgement.is_ok else None,
        leaked_mass=judgement.leaked_mass if judgement.is_ok else None,
        message=judgement.message,
        instruction=judgement.instruction,
        instruction_sha256=judgement.instruction_sha256,
        rationale=judgement.rationale,
        cost=judgement.cost,
    )


def _blank_rows(
    comparisons: Sequence[Comparison], known: Known, fingerprint: str, orders: Orders
) -> list[JudgementRow]:
    """Rows with everything but the answers."""
    if not comparisons:
        raise DataError("There are no comparisons to evaluate on. Check the data set and the split.")
    gold = known.gold if known.gold is not None else [None] * len(comparisons)
    lengths = {"gold": len(gold)} | {name: len(column) for name, column in known.facets.items()}
    for name, length in lengths.items():
        if length != len(comparisons):
            raise UsageError(f"{name} has {length} values for {len(comparisons)} comparisons; it must have one each.")
    rows = []
    for index, comparison in enumerate(comparisons):
        facets = {"source": comparison.source} | {name: column[index] for name, column in known.facets.items()}
        rows.append(
            JudgementRow(
                id=comparison.id,
                key=row_key(comparison, fingerprint, orders),
                cluster=cluster_of(comparison),
                prompt=shown_prompt(comparison),
                media=(str(comparison.first.path), str(comparison.second.path)),
                forward=Answer(Status.FAILED, message="not asked"),
                backward=None,
                target=comparison.target,
                gold=gold[index],
                dimensions=dict(comparison.dimensions),
                facets={name: value for name, value in facets.items() if value is not None},
            )
        )
    if len({row.id for row in rows}) < len(rows):
        raise DataError("Two comparisons have the same id. Give every comparison an id of its own.")
    return rows


def _kept_answers(blank: Sequence[JudgementRow], rows_path: Path | None) -> list[JudgementRow]:
    """Rows with answers from an earlier, interrupted evaluation; the file is left with exactly these."""
    if rows_path is None:
        return []
    stored = {(row.id, row.key): row for row in read_rows(rows_path)}
    kept = [
        replace(row, forward=stored[row.id, row.key].forward, backward=stored[row.id, row.key].backward)
        for row in blank
        if (row.id, row.key) in stored
    ]
    rows_path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(rows_path, kept)
    return kept


def _report(on_progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if on_progress is not None:
        on_progress(done, total)
