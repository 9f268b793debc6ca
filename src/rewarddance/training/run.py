"""What stands around the training loop: the parts of a run, its beginning, its checkpoints, its end."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from rewarddance.config.training import TrainConfig
from rewarddance.core.errors import UsageError
from rewarddance.core.types import Comparison
from rewarddance.rewards.folder import MediaSettings
from rewarddance.rewards.loading import new_reward_model
from rewarddance.rewards.protocol import LossSettings, PreparedComparisons, RewardModel
from rewarddance.training.checkpoints import (
    RunProgress,
    best_complete,
    complete_at,
    latest_complete,
    save_checkpoint,
    tidy,
)
from rewarddance.training.data_order import DataOrder
from rewarddance.training.held_out import held_out_right
from rewarddance.training.learner import Learner, StepFigures
from rewarddance.training.learning_data import ChosenComparisons, comparisons_held_out, comparisons_to_learn
from rewarddance.training.optimizer_state import (
    optimizer_tensors,
    restore_optimizer,
    restore_weights,
    trained_weights,
)
from rewarddance.training.pause_points import reached
from rewarddance.training.prepared_batches import Extras, prepared_batches
from rewarddance.training.reasoning_extras import check_extras, extras_of, told_of_reasoning
from rewarddance.training.run_folder import RunFolder, replace_folder
from rewarddance.training.run_plan import RunPlan
from rewarddance.training.tracking import write_environment
from rewarddance.training.trained_parameters import (
    Adapters,
    compute_dtype,
    select_trained_parameters,
    set_precision,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepReport:
    """One line of `metrics.jsonl`.

    Attributes:
        optimizer_step: Updates made, this one included.
        epoch: How many times the data has been seen.
        loss: Mean loss of a comparison as shown, before the update; ln 2 for an uninformed model.
        accuracy: Share of this step's comparisons that were right before the update; None if all were ties.
        held_out_accuracy: Two-order accuracy on held-out comparisons, at the steps at which it is measured.
        learning_rate: Of this update.
        gradient_norm: Before it was limited.
        comparisons_per_second: Comparisons (not their two orders) learned from per second of this step.
        order_sha256: Chained digest of what has been shown so far, in order.
    """

    optimizer_step: int
    epoch: float
    loss: float
    accuracy: float | None
    held_out_accuracy: float | None
    learning_rate: float
    gradient_norm: float
    comparisons_per_second: float
    order_sha256: str


@dataclass(frozen=True)
class Run:
    """What a run is made of, and what the loop asks of it besides the step itself."""

    config: TrainConfig
    folder: RunFolder
    model: RewardModel
    adapters: Adapters | None
    train: ChosenComparisons
    held_out: ChosenComparisons
    evaluate: Callable[[RewardModel], float] | None
    learner: Learner
    order: DataOrder
    plan: RunPlan
    progress: RunProgress
    extras: Extras

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.learner.share.rank == 0

    def batches(self) -> Iterator[PreparedComparisons]:
        """This process's micro-batches from where the run continues to its end."""
        accumulation = self.config.gradient_accumulation
        return prepared_batches(
            self.model,
            self.train,
            self.order,
            self.learner.share,
            start=self.progress.optimizer_step * accumulation,
            stop=self.plan.total_steps * accumulation,
            workers=self.config.data.workers,
            extras=self.extras,
        )

    def advanced(self, progress: RunProgress) -> RunProgress:
        """One optimizer step further, with the records of that step in the digest."""
        digest = hashlib.sha256(progress.order_sha256.encode())
        accumulation = self.config.gradient_accumulation
        for micro_batch in range(progress.optimizer_step * accumulation, (progress.optimizer_step + 1) * accumulation):
            for shown in self.order.shown(micro_batch):
                digest.update(f"{shown.index}\t{shown.is_swapped}\n".encode())
        return replace(
            progress,
            optimizer_step=progress.optimizer_step + 1,
            accuracy=None,
            order_sha256=digest.hexdigest(),
        )

    def evaluated(self, progress: RunProgress) -> RunProgress:
        """With the held-out accuracy of this moment, and the best so far; as it was if nothing is held out."""
        if self.evaluate is None and not self.held_out:
            return progress
        learner = self.learner
        with learner.precision(), torch.no_grad():
            if self.evaluate is None:
                right = held_out_right(self.model, self.held_out, self.config.batch_size, learner.device, learner.share)
                accuracy = learner.total(right) / len(self.held_out)
            else:
                self.model.module.eval()
                accuracy = learner.total(self.evaluate(self.model) if self.is_main else 0.0)
        reached("evaluation:finished")
        progress = replace(progress, accuracy=accuracy)
        if progress.best_accuracy is None or accuracy > progress.best_accuracy:
            progress = replace(progress, best_accuracy=accuracy, best_step=progress.optimizer_step)
        return progress

    def report(self, progress: RunProgress, figures: StepFigures, rate: float, seconds: float) -> StepReport:
        """The line of this step."""
        return StepReport(
            optimizer_step=progress.optimizer_step,
            epoch=self.plan.epoch(progress.optimizer_step),
            loss=figures.loss,
            accuracy=figures.accuracy,
            held_out_accuracy=progress.accuracy,
            learning_rate=rate,
            gradient_norm=figures.gradient_norm,
            comparisons_per_second=self.plan.comparisons_per_step / seconds,
            order_sha256=progress.order_sha256,
        )

    def save(self, progress: RunProgress) -> None:
        """Write a checkpoint; the main process does, the others wait."""
        if self.is_main:
            module = self.model.module
            save_checkpoint(
                self.folder.checkpoints,
                progress,
                trained_weights(module),
                optimizer_tensors(module, self.learner.optimizer),
                self.config.keep_checkpoints,
            )
        self.learner.wait_for_everyone()

    def save_unless_updated(self, progress: RunProgress) -> None:
        """Write a checkpoint after a step that broke off, if it changed no weight and no other process waits."""
        made_here = progress.optimizer_step - self.progress.optimizer_step
        is_whole = self.learner.updates == made_here and self.learner.share.processes == 1
        if is_whole and complete_at(self.folder.checkpoints, progress.optimizer_step, RunProgress) is None:
            self.save(progress)

    def finish(self) -> Path:
        """Give the model its best weights and write it, whole or not at all."""
        checkpoint = best_complete(self.folder.checkpoints) or latest_complete(self.folder.checkpoints)
        if checkpoint is not None:
            restore_weights(self.model.module, checkpoint.weights())
            self.model.training = self._told(checkpoint.progress)
        self.learner.wait_for_everyone()
        self.model.module.eval()
        if self.adapters is not None:
            if self.is_main:
                replace_folder(self.folder.adapter, self.adapters.save)
            self.adapters.merge()
        if self.is_main:
            replace_folder(self.folder.model, self.model.save)
        self.learner.wait_for_everyone()
        return self.folder.model

    def _told(self, progress: RunProgress) -> dict[str, object]:
        """What the saved model says about its training."""
        return {
            "data": str(self.config.data.train),
            "comparisons": len(self.train),
            "comparisons_sha256": self.train.sha256,
            "optimizer_steps": progress.optimizer_step,
            "orders": self.config.orders,
            "seed": self.config.seed,
            "held_out_accuracy": progress.accuracy,
            "held_out_comparisons": len(self.held_out),
            **told_of_reasoning(self.config, self.extras),
        }


def start_run(
    config: TrainConfig,
    accelerator: Accelerator,
    model: RewardModel | None,
    train: Sequence[Comparison] | None,
    held_out: Sequence[Comparison] | None,
    resume: bool,
    evaluate: Callable[[RewardModel], float] | None,
) -> Run:
    """Choose the data, make the model ready, claim the folder, and go back to where the run was.

    The arguments are those of `train_reward_model`, and the processes of the run.
    """
    folder = RunFolder(config.out)
    if accelerator.is_main_process:
        folder.check(config, resume)
    accelerator.wait_for_everyone()
    learned, measured = comparisons_to_learn(config, train), comparisons_held_out(config, held_out)
    check_extras(config, learned)
    _check_step(config, len(learned), accelerator.num_processes)
    model = model or _new_model(config, accelerator.device)
    adapters = select_trained_parameters(model.backbone.model, config.model, config.seed)
    dtype = compute_dtype(config.precision, accelerator.device)
    set_precision(model.module, dtype)
    model.module.to(accelerator.device)
    learner = Learner(model, config.optimizer, _loss_settings(config), dtype, config.seed, accelerator)
    processes = learner.share.processes
    order = DataOrder(config.seed, len(learned), config.batch_size * processes, config.orders)
    plan = RunPlan(len(learned), order.batch_size * config.gradient_accumulation, config.epochs)
    beginning = RunProgress(comparisons_sha256=learned.sha256, processes=processes)
    progress = _restored(folder, model, learner, beginning) if resume else beginning
    if learner.share.rank == 0:
        # Not before: a run that could not begin would leave a folder that the corrected one cannot have.
        folder.claim(config, progress.optimizer_step)
        write_environment(folder.environment, config.seed, processes, learner.device)
    extras = extras_of(config, learned, folder, learner)
    return Run(config, folder, model, adapters, learned, measured, evaluate, learner, order, plan, progress, extras)


def _check_step(config: TrainConfig, length: int, processes: int) -> None:
    """A step that is larger than the data would show some of it several times, and epochs would mean nothing."""
    size = config.batch_size * config.gradient_accumulation * processes
    if size > length:
        shared = f" * {processes} processes" if processes > 1 else ""
        raise UsageError(
            f"one optimizer step takes {size:,} comparisons (batch_size {config.batch_size:,} * gradient_accumulation "
            f"{config.gradient_accumulation:,}{shared}), and there are {length:,} to learn from; "
            "lower batch_size or gradient_accumulation"
        )


def _loss_settings(config: TrainConfig) -> LossSettings:
    defaults = LossSettings()
    rationale, distillation = config.rationale, config.distillation
    return LossSettings(
        label_smoothing=config.loss.label_smoothing,
        answer_weight=config.loss.answer_weight,
        rationale_answer_weight=defaults.rationale_answer_weight if rationale is None else rationale.answer_weight,
        teacher_weight=defaults.teacher_weight if distillation is None else distillation.weight,
        teacher_temperature=defaults.teacher_temperature if distillation is None else distillation.temperature,
    )


def _new_model(config: TrainConfig, device: torch.device) -> RewardModel:
    settings = config.model
    return new_reward_model(
        settings.base,
        settings.kind,
        seed=config.seed,
        instruction=settings.instruction,
        reference_mode="together" if config.data.reference_sets else "one_by_one",
        media=MediaSettings(min_pixels=settings.min_pixels, max_pixels=settings.max_pixels),
        attention=settings.attention,
        device=device,
        revision=settings.revision,
    )


def _restored(folder: RunFolder, model: RewardModel, learner: Learner, beginning: RunProgress) -> RunProgress:
    """Where the run continues; weights and optimizer are put back."""
    checkpoint = latest_complete(folder.checkpoints)
    learner.wait_for_everyone()
    if learner.share.rank == 0:
        tidy(folder.checkpoints, checkpoint)
    if checkpoint is None:
        _log.warning("no checkpoint in %s yet: starting from the beginning", folder.checkpoints)
        return beginning
    progress: RunProgress = checkpoint.progress
    if progress.processes != beginning.processes:
        raise UsageError(
            f"the run was made with {progress.processes} processes and is resumed with {beginning.processes}; "
            "start as many as before"
        )
    if progress.comparisons_sha256 != beginning.comparisons_sha256:
        raise UsageError(
            f"the comparisons are not those that {folder.path} began with; restore them, or give another `out`"
        )
    restore_weights(model.module, checkpoint.weights())
    restore_optimizer(model.module, learner.optimizer, checkpoint.optimizer())
    _log.info("resuming after optimizer step %d from %s", progress.optimizer_step, checkpoint.folder)
    return progress
