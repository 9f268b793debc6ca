"""One optimizer step on a reward model: forward, loss, backward, check, update. On one process or several."""

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from rewarddance.config.training import OptimizerConfig
from rewarddance.core.errors import NonFiniteError
from rewarddance.core.files import write_json_atomic
from rewarddance.core.seeding import derive_seed
from rewarddance.rewards.protocol import LossSettings, PreparedComparisons, RewardModel
from rewarddance.training.pause_points import reached
from rewarddance.training.prepared_batches import Share, on_device
from rewarddance.training.trained_parameters import decay_groups

_NAMES_IN_MESSAGE = 8


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What one optimizer step showed, over all processes.

    Attributes:
        loss: Mean loss of a comparison as shown; ln 2 for an uninformed model.
        accuracy: Share of the step's comparisons that the model got right before the update; without ties, and without
            those whose rationale it was told first.
        gradient_norm: Length of the gradient before it was limited.
        is_stop_requested: Whether any process was asked to stop.
    """

    loss: float
    accuracy: float | None
    gradient_norm: float
    is_stop_requested: bool


class Learner:
    """A reward model with its optimizer, on its device, spread over the processes of the run.

    Attributes:
        share: Which process this is, and of how many.
        optimizer: AdamW over what learns.
        updates: Changes of the weights that were begun here.
    """

    def __init__(
        self,
        model: RewardModel,
        optimizer: OptimizerConfig,
        loss: LossSettings,
        dtype: torch.dtype,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        """Build the optimizer over the parameters that learn; the model is on its device already."""
        self._model = model
        self._settings = optimizer
        self._dtype = dtype
        self._seed = seed
        self.updates = 0
        self._accelerator = accelerator
        self.share = Share(accelerator.process_index, accelerator.num_processes)
        self.optimizer = torch.optim.AdamW(
            decay_groups(model.module, optimizer.weight_decay),
            lr=optimizer.learning_rate,
            betas=optimizer.betas,
            fused=True,
        )
        self._forward: Any = accelerator.prepare(_ComparisonLosses(model, loss))

    def precision(self) -> AbstractContextManager[Any]:
        """Forward passes inside run in the precision of the run."""
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self._accelerator.device
        return device

    def step(
        self,
        optimizer_step: int,
        batches: Sequence[PreparedComparisons],
        learning_rate: float,
        dump: Path,
        is_stop_requested: bool,
    ) -> StepFigures:
        """Learn from one group of micro-batches.

        Args:
            optimizer_step: Updates made so far; with the seed it decides dropout.
            batches: This process's micro-batches, on the CPU.
            learning_rate: For this update.
            dump: Where the records are written if the loss is not finite.
            is_stop_requested: Whether this process was asked to stop; told to the others.

        Raises:
            NonFiniteError: A loss or the gradient is not finite. The weights are as they were.
        """
        torch.manual_seed(derive_seed(self._seed, "dropout", optimizer_step, self.share.rank))
        self._model.module.train()
        rows = sum(len(batch.ids) for batch in batches) * self.share.processes
        seen = [self._backward(batch, rows, number == len(batches) - 1) for number, batch in enumerate(batches)]
        reached("step:after-backward")
        norm = self._limited_gradient_norm()
        losses, log_odds, targets = (torch.cat(values) for values in zip(*seen, strict=True))
        loss, right, decided, stops = self._over_processes(
            losses.sum() / rows, *_right_and_decided(log_odds, targets), float(is_stop_requested)
        )
        if not (math.isfinite(loss) and math.isfinite(norm)):
            ids = [name for batch in batches for name in batch.ids]
            raise _non_finite(optimizer_step, ids, losses, log_odds, dump)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.updates += 1
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        reached("step:after-update")
        return StepFigures(loss, right / decided if decided else None, norm, bool(stops))

    def total(self, value: float) -> float:
        """Sum of a number over all processes."""
        return self._over_processes(value)[0]

    def wait_for_everyone(self) -> None:
        """Return when every process of the run has come this far."""
        self._accelerator.wait_for_everyone()

    def _backward(self, batch: PreparedComparisons, rows: int, is_last: bool) -> tuple[Tensor, Tensor, Tensor]:
        batch = on_device(batch, self.device)
        # Gradients of several micro-batches are added up here and exchanged between processes once.
        with nullcontext() if is_last else self._accelerator.no_sync(self._forward):
            with self.precision():
                losses, log_odds = self._forward(batch)
            # Gradients are averaged over processes; the loss is a mean over the rows of all of them.
            (losses.sum() * (self.share.processes / rows)).backward()
        return losses.detach(), log_odds, _told_nothing(batch)

    def _limited_gradient_norm(self) -> float:
        limit = self._settings.max_gradient_norm
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return float(torch.nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit))

    def _over_processes(self, *values: float | Tensor) -> list[float]:
        numbers = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        if self.share.processes > 1:
            numbers = self._accelerator.reduce(numbers, reduction="sum")
        return [float(number) for number in numbers.tolist()]


class _ComparisonLosses(nn.Module):
    """The model's loss as a module: data-parallel training exchanges gradients of what a module's forward has used."""

    def __init__(self, model: RewardModel, settings: LossSettings) -> None:
        super().__init__()
        self.module = model.module
        self._model = model
        self._settings = settings

    def forward(self, prepared: PreparedComparisons) -> tuple[Tensor, Tensor]:
        result = self._model.comparison_loss(prepared, self._settings)
        return result.loss, result.log_odds


def new_accelerator() -> Accelerator:
    """The processes of this run as torchrun (or nobody) started them.

    Precision is ours (`Learner.precision`): accelerate's is one setting for the life of a Python process.
    """
    # A scalar model leaves the vocabulary head out, a model asked without images its vision tower.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Unless told, accelerate does not let processes on CPUs know of each other.
    return Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available(), kwargs_handlers=[unused])


def _told_nothing(batch: PreparedComparisons) -> Tensor:
    """The targets, with a tie, which nobody gets right or wrong, where the model was told the reasons."""
    if batch.rationales is None:
        return batch.targets
    return batch.targets.masked_fill(batch.rationales.is_reason_first, 0.5)


def _right_and_decided(log_odds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    preferred = torch.sign(targets - 0.5)
    decided = preferred != 0
    return ((torch.sign(log_odds) * preferred + 1) / 2 * decided).sum(), decided.sum()


def _non_finite(
    optimizer_step: int, ids: Sequence[str], losses: Tensor, log_odds: Tensor, dump: Path
) -> NonFiniteError:
    is_bad = (~(losses.isfinite() & log_odds.isfinite())).tolist()
    rows = [
        {"id": name, "loss": str(loss), "log_odds": str(odds), "is_finite": not bad}
        for name, loss, odds, bad in zip(ids, losses.tolist(), log_odds.tolist(), is_bad, strict=True)
    ]
    write_json_atomic(dump, {"optimizer_step": optimizer_step, "records": rows})
    named = list(dict.fromkeys(name for name, bad in zip(ids, is_bad, strict=True) if bad))
    what = "loss" if named else "gradient"
    named = named or list(dict.fromkeys(ids))
    more = f" and {len(named) - _NAMES_IN_MESSAGE} more" if len(named) > _NAMES_IN_MESSAGE else ""
    return NonFiniteError(
        f"{what} is not finite at optimizer step {optimizer_step + 1}, records "
        f"{json.dumps(named[:_NAMES_IN_MESSAGE], ensure_ascii=False)}{more} (all in {dump}); "
        "look at these records, or lower optimizer.learning_rate and resume from the last checkpoint"
    )
