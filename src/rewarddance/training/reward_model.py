"""Learn a reward model from comparisons: the loop, for every paradigm.

Source:
    RewardDance, arXiv:2509.08826, section 3.2: the paradigm's loss is the model's own (`comparison_loss`).
    Differs: every comparison is shown in both orders by default, which the paper does not report.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from rewarddance.config.loader import require_config
from rewarddance.config.training import TrainConfig
from rewarddance.core.files import locked_folder
from rewarddance.core.types import Comparison
from rewarddance.rewards.protocol import RewardModel
from rewarddance.training.checkpoints import RunProgress
from rewarddance.training.device_memory import full_memory_in_words
from rewarddance.training.learner import new_accelerator
from rewarddance.training.mirrors import open_mirrors, require_mirrors
from rewarddance.training.pause_points import reached
from rewarddance.training.run import Run, StepReport, start_run
from rewarddance.training.schedule import cosine_with_warmup
from rewarddance.training.stop_signal import stop_on_sigterm
from rewarddance.training.tracking import MetricsLog, progress_bar


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        folder: The run directory.
        model_folder: The finished reward model, of the best checkpoint; None when the run was stopped before its end.
        best_accuracy: Highest held-out accuracy; None when nothing was held out.
        best_step: The optimizer step at which it was measured.
        optimizer_steps: Updates made in all.
        is_finished: False after SIGTERM: the run has saved a checkpoint and can be resumed.
    """

    folder: Path
    model_folder: Path | None
    best_accuracy: float | None
    best_step: int | None
    optimizer_steps: int
    is_finished: bool


def train_reward_model(
    config: TrainConfig,
    model: RewardModel | None = None,
    train: Sequence[Comparison] | None = None,
    held_out: Sequence[Comparison] | None = None,
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
    evaluate: Callable[[RewardModel], float] | None = None,
) -> TrainingResult:
    """Learn from comparisons until the epochs are over or SIGTERM comes.

    Args:
        config: Everything that decides the run.
        model: What to train, changed in place; None makes it from the config. Ends with the best weights.
        train: Comparisons to learn from; None reads them from the config's folder.
        held_out: Comparisons to measure accuracy on; None reads them, an empty sequence measures nothing.
        resume: Continue from the newest complete checkpoint of `config.out`; from the start if there is none yet.
        on_step: Called after every optimizer step, on every process.
        evaluate: Replaces the built-in held-out accuracy; called on the main process, higher is better.

    Raises:
        UsageError: The folder holds a run already, another run goes on in it, or the config does not fit the model or
            the run to resume.
        DataError: There is nothing to learn from.
        CheckpointError: A checkpoint could not be written, or none of those there is complete.
        NonFiniteError: A loss or gradient was not finite.
        DeviceMemoryError: The GPU's memory is full; one process alone has saved the steps that were finished.
    """
    require_config(config, TrainConfig)
    require_mirrors(config.mirrors)
    accelerator = new_accelerator()
    # Of several processes of one run, the main one alone writes files.
    alone = locked_folder(config.out) if accelerator.is_main_process else nullcontext()
    with full_memory_in_words(_memory_advice(config)), alone:
        run = start_run(config, accelerator, model, train, held_out, resume, evaluate)
        progress = _learned(run, on_step)
        is_finished = progress.optimizer_step >= run.plan.total_steps
        return TrainingResult(
            folder=run.folder.path,
            model_folder=run.finish() if is_finished else None,
            best_accuracy=progress.best_accuracy,
            best_step=progress.best_step,
            optimizer_steps=progress.optimizer_step,
            is_finished=is_finished,
        )


def _learned(run: Run, on_step: Callable[[StepReport], None] | None) -> RunProgress:
    """Update after update, from where the run stands to its end."""
    config, learner, plan, progress = run.config, run.learner, run.plan, run.progress
    is_stopped = False
    with (
        stop_on_sigterm() as stop,
        open_mirrors(
            config.mirrors if run.is_main else (), run.folder.path, progress.optimizer_step, config
        ) as mirrors,
        MetricsLog(
            run.folder.metrics if run.is_main else None, progress.optimizer_step, partial(mirrors.copy, "train")
        ) as metrics,
        progress_bar("training", plan.total_steps, progress.optimizer_step, run.is_main) as bar,
    ):
        batches = run.batches()
        while progress.optimizer_step < plan.total_steps and not is_stopped:
            reached("step:started")
            began = time.perf_counter()
            prepared = list(islice(batches, config.gradient_accumulation))
            rate = config.optimizer.learning_rate * cosine_with_warmup(
                progress.optimizer_step, plan.total_steps, config.optimizer.warmup_share
            )
            dump = run.folder.nonfinite_batch(learner.share.rank)
            try:
                figures = learner.step(progress.optimizer_step, prepared, rate, dump, stop.is_made)
            except torch.OutOfMemoryError:
                metrics.sync()
                run.save_unless_updated(progress)
                raise
            seconds = time.perf_counter() - began
            progress = run.advanced(progress)
            is_stopped = figures.is_stop_requested

            is_evaluated = plan.is_due(progress.optimizer_step, config.evaluate_every)
            progress = run.evaluated(progress) if is_evaluated else progress
            report = run.report(progress, figures, rate, seconds)
            metrics.write(asdict(report))
            bar.advance(f"loss {report.loss:.3f}  best held-out accuracy {_shown(progress.best_accuracy)}")
            if on_step is not None:
                on_step(report)
            is_best = is_evaluated and progress.best_step == progress.optimizer_step
            if is_best or is_stopped or plan.is_due(progress.optimizer_step, config.save_every):
                metrics.sync()
                run.save(progress)
    return progress


def _memory_advice(config: TrainConfig) -> list[str]:
    advice = []
    if not config.model.gradient_checkpointing:
        advice.append("model.gradient_checkpointing=true computes activations again instead of keeping them")
    if config.batch_size > 1:
        advice.append("batch_size=1 with a higher gradient_accumulation keeps the step and divides the activations")
    return advice


def _shown(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"
