"""Micro-batches from the data order to tensors, in this process or in workers."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from rewarddance.core.errors import RewardDanceError
from rewarddance.core.parent_process import end_with_parent
from rewarddance.core.seeding import numpy_rng
from rewarddance.core.types import Comparison
from rewarddance.rewards.protocol import PreparedComparisons, RewardModel
from rewarddance.rewards.reasoning_settings import Format
from rewarddance.training.data_order import DataOrder, Shown
from rewarddance.training.learning_data import ChosenComparisons
from rewarddance.training.teaching import Teaching


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every micro-batch this process takes: the `rank`-th of `processes` equal stretches."""

    rank: int = 0
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Extras:
    """What is learned beside the choices.

    Attributes:
        reason_first_share: Share of rows that are asked for their rationale before the answer; None for no rationales.
        keeps_swapped: Whether a rationale is learned also where its media are shown in the other order.
        teaching: A teacher's answers; None for no teacher.
    """

    reason_first_share: float | None = None
    keeps_swapped: bool = False
    teaching: Teaching | None = None


def prepared_batches(
    model: RewardModel,
    comparisons: ChosenComparisons,
    order: DataOrder,
    share: Share,
    start: int,
    stop: int,
    workers: int,
    extras: Extras | None = None,
) -> Iterator[PreparedComparisons]:
    """Decode, preprocess and tokenise micro-batches `start` to `stop` (excluded), in order.

    Args:
        model: Prepares the comparisons.
        comparisons: To learn from.
        order: Which of them when.
        share: This process's part of every micro-batch.
        start: First micro-batch, counted from the start of the run.
        stop: Micro-batch before which to end.
        workers: Processes that prepare; 0 does it in this one.
        extras: What is learned beside the choices; None for nothing.

    Raises:
        RewardDanceError: A comparison that the model cannot take, in the words of `prepare_comparisons`.
    """
    batches = _MicroBatches(model, comparisons, order, share, extras or Extras())
    loader: DataLoader[PreparedComparisons | RewardDanceError] = DataLoader(
        batches,  # type: ignore[arg-type]  # what it needs of a Dataset is __getitem__
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
    )
    for batch in loader:
        if isinstance(batch, RewardDanceError):
            raise batch
        yield batch


def on_device(prepared: PreparedComparisons, device: torch.device) -> PreparedComparisons:
    """The same batch with its tensors on the device."""
    return replace(
        prepared,
        questions=prepared.questions.to(device),
        targets=prepared.targets.to(device),
        weights=prepared.weights.to(device),
        rationales=None if prepared.rationales is None else prepared.rationales.to(device),
        teacher=None if prepared.teacher is None else prepared.teacher.to(device),
    )


@dataclass(frozen=True, slots=True)
class _MicroBatches:
    model: RewardModel
    comparisons: ChosenComparisons
    order: DataOrder
    share: Share
    extras: Extras

    def __getitem__(self, micro_batch: int) -> PreparedComparisons | RewardDanceError:
        rows = self.order.shown(micro_batch)
        size = len(rows) // self.share.processes
        own = slice(self.share.rank * size, (self.share.rank + 1) * size)
        shown = [_with_a_target(self._shown(row)) for row in rows[own]]
        formats = self._formats(micro_batch, len(rows))
        try:
            prepared = (
                self.model.prepare_comparisons(shown)
                if formats is None
                else self.model.prepare_comparisons(shown, formats[own])
            )
        except RewardDanceError as error:
            # Raised in a worker it would arrive wrapped in a page of traceback.
            return error
        teaching = self.extras.teaching
        return prepared if teaching is None else replace(prepared, teacher=teaching.of(rows[own]))

    def _shown(self, row: Shown) -> Comparison:
        comparison = row.of(self.comparisons[row.index])
        keeps = self.extras.keeps_swapped or not row.is_swapped
        return comparison if keeps else replace(comparison, rationale=None)

    def _formats(self, micro_batch: int, rows: int) -> list[Format] | None:
        """Where the rationale of each row stands: a function of seed and position alone, as the order is."""
        share = self.extras.reason_first_share
        if share is None:
            return None
        drawn = numpy_rng(self.order.seed, "rationale_format", micro_batch).random(rows)
        return ["reason_first" if number < share else "answer_first" for number in drawn]


def _with_a_target(comparison: Comparison) -> Comparison:
    """One that nobody has judged as a tie: its target is not learned, but a batch has one for every row."""
    return replace(comparison, choice="tie") if comparison.target is None else comparison


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    # The tokenizer's own threads do not survive a fork; it says so on every start unless told.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # It has inherited the lock on the run's folder.
    end_with_parent()
