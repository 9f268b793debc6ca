"""Micro-batches from the data order to tensors, in this process or in workers."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from rewarddance.core.errors import RewardDanceError
from rewarddance.rewards.protocol import PreparedComparisons, RewardModel
from rewarddance.training.data_order import DataOrder
from rewarddance.training.learning_data import ChosenComparisons


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every micro-batch this process takes: the `rank`-th of `processes` equal stretches."""

    rank: int = 0
    processes: int = 1


def prepared_batches(
    model: RewardModel,
    comparisons: ChosenComparisons,
    order: DataOrder,
    share: Share,
    start: int,
    stop: int,
    workers: int,
) -> Iterator[PreparedComparisons]:
    """Decode, preprocess and tokenise micro-batches `start` to `stop` (excluded), in order.

    Raises:
        RewardDanceError: A comparison that the model cannot take, in the words of `prepare_comparisons`.
    """
    batches = _MicroBatches(model, comparisons, order, share)
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
    )


@dataclass(frozen=True, slots=True)
class _MicroBatches:
    model: RewardModel
    comparisons: ChosenComparisons
    order: DataOrder
    share: Share

    def __getitem__(self, micro_batch: int) -> PreparedComparisons | RewardDanceError:
        rows = self.order.shown(micro_batch)
        size = len(rows) // self.share.processes
        mine = rows[self.share.rank * size : (self.share.rank + 1) * size]
        try:
            return self.model.prepare_comparisons([shown.of(self.comparisons[shown.index]) for shown in mine])
        except RewardDanceError as error:
            # Raised in a worker it would arrive wrapped in a page of traceback.
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    # The tokenizer's own threads do not survive a fork; it says so on every start unless told.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
