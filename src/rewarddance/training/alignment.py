"""Tune a generator with a reward: the loop, for every method.

Source:
    RewardDance, arXiv:2509.08826, section 3.3, aligns by ReFL; the methods name their own sources.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.loader import require_config
from rewarddance.core.errors import DataError, MediaError, ModelError, RewardError
from rewarddance.core.files import locked_folder
from rewarddance.generators.protocol import Generator
from rewarddance.training.alignment_progress import AlignmentProgress
from rewarddance.training.alignment_run import AlignmentReport, AlignmentRun, ExtraCurves, RefreshReferences
from rewarddance.training.alignment_start import start_alignment
from rewarddance.training.device_memory import full_memory_in_words
from rewarddance.training.guard import Guard
from rewarddance.training.guard_observation import HeldOutJudge
from rewarddance.training.memory_plan import advice_for_resume
from rewarddance.training.mirrors import open_mirrors, require_mirrors
from rewarddance.training.pause_points import reached
from rewarddance.training.reward_signal import RewardSignal
from rewarddance.training.stop_signal import stop_on_sigterm
from rewarddance.training.tracking import MetricsLog, progress_bar
from rewarddance.training.workbench import ReferenceLookup


@dataclass(frozen=True, slots=True)
class AlignmentResult:
    """How a run ended.

    Attributes:
        folder: The run directory.
        generator_folder: The finished generator; None when the run was stopped before its end.
        optimizer_steps: Updates made in all.
        ending: `complete`; `stop` or `roll_back` when the guard ended the run, or went back at its end; `interrupted`
            after SIGTERM.
        verdict: What the guard said last; None without one.
        best_step: The last evaluation as good as the best of the whole run, by the held-out judges; None without a
            guard.
    """

    folder: Path
    generator_folder: Path | None
    optimizer_steps: int
    ending: str
    verdict: str | None
    best_step: int | None

    @property
    def is_finished(self) -> bool:
        """False after SIGTERM: the run has saved a checkpoint and can be resumed."""
        return self.generator_folder is not None

    @property
    def kept_step(self) -> int:
        """Updates that the finished generator has had: those of the best checkpoint after a roll-back."""
        if self.ending == "roll_back" and self.best_step is not None:
            return self.best_step
        return self.optimizer_steps


def align(
    config: AlignConfig,
    generator: Generator | None = None,
    reward: RewardSignal | None = None,
    evaluate: ExtraCurves | None = None,
    guard: Guard | None = None,
    refresh_references: RefreshReferences | None = None,
    resume: bool = False,
    on_step: Callable[[AlignmentReport], None] | None = None,
    judges: Mapping[str, HeldOutJudge] | None = None,
    references: ReferenceLookup | None = None,
    digests: Mapping[str, str] | None = None,
) -> AlignmentResult:
    """Tune until the steps are over, the guard ends it, or SIGTERM comes.

    Args:
        config: Everything that decides the run.
        generator: What to tune, changed in place; None loads what the config names.
        reward: What to tune it towards; None loads what the config names.
        evaluate: Further figures of each evaluation, such as gold; nobody acts on them.
        guard: Watches with judges of its own; None makes one if the config has a `guard` block.
        refresh_references: Makes reference images anew; needed where the config or the guard asks for that.
        resume: Continue from the newest complete checkpoint of `config.out`; from the start if there is none yet.
        on_step: Called after every optimizer step.
        judges: Held-out judges by name; None loads those of the config.
        references: Looks reference images up; None reads the config's folder.
        digests: Of what the run reads, as `input_digests` gives them; a resumed run must read the same. None takes
            them of what the config names, but for parts that are given here.

    Raises:
        UsageError: The folder holds a run already, another process runs in it, parts of the config do not fit each
            other or the run to resume, or what that run has read is not what it was.
        ModelError: A model cannot be loaded, or the judge of new reference images is away; then as for RewardError.
        DataError: A list of prompts, or the references, cannot be used.
        RewardError: A reward gave no usable numbers; what was done so far is saved, and the run can be resumed.
        DeviceMemoryError: The GPU's memory is full; likewise, unless it happened in the middle of an update.
        CheckpointError: A checkpoint could not be written, or none of those there is complete.
        NonFiniteError: A loss or gradient was not finite.
    """
    require_config(config, AlignConfig)
    require_mirrors(config.mirrors)
    with full_memory_in_words(advice_for_resume(config)), locked_folder(config.out):
        run = start_alignment(
            config, generator, reward, judges, guard, references, evaluate, refresh_references, resume, digests
        )
        progress = _tuned(run, on_step)
        is_finished = run.is_finished(progress)
        return AlignmentResult(
            folder=run.folder.path,
            generator_folder=run.finish(progress) if is_finished else None,
            optimizer_steps=progress.optimizer_step,
            ending=(progress.ending or "complete") if is_finished else "interrupted",
            verdict=progress.verdict,
            best_step=progress.best_step,
        )


def _tuned(run: AlignmentRun, on_step: Callable[[AlignmentReport], None] | None) -> AlignmentProgress:
    """Update after update, from where the run stands to its end."""
    progress, total = run.progress, run.config.optimizer_steps
    # Lines of step 0 stay only if a checkpoint knows of them.
    resumed_step = -1 if run.saved is None else progress.optimizer_step
    with (
        stop_on_sigterm() as stop,
        open_mirrors(run.config.mirrors, run.folder.path, resumed_step, run.config) as mirrors,
        MetricsLog(run.folder.metrics, resumed_step, partial(mirrors.copy, "train")) as metrics,
        MetricsLog(
            run.folder.evaluations,
            run.logged_evaluation,
            partial(mirrors.copy, "evaluation", pictures_of=run.folder.sample),
        ) as evaluations,
        MetricsLog(run.folder.observations, run.logged_evaluation) as observations,
        progress_bar("aligning", total, progress.optimizer_step, True) as bar,
    ):
        try:
            while True:
                if not stop.is_made:
                    progress = run.evaluated(run.refreshed(progress), evaluations, observations)
                is_last = stop.is_made or run.is_over(progress)
                if is_last or run.is_save_due(progress):
                    run.save(progress, metrics, evaluations, observations)
                if is_last:
                    return progress
                reached("step:started")
                began = time.perf_counter()
                for parts in run.updates(progress.optimizer_step):
                    figures = run.optimizer.step(progress.optimizer_step, parts)
                    progress, ended = run.advanced(progress), time.perf_counter()
                    report = run.report(progress, figures, ended - began)
                    metrics.write(asdict(report))
                    bar.advance(f"reward {report.reward:+.2f}")
                    began = ended
                    if on_step is not None:
                        on_step(report)
        except (RewardError, ModelError, MediaError, DataError, torch.OutOfMemoryError):
            if run.is_whole:
                run.save(progress, metrics, evaluations, observations)
            raise
