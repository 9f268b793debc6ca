"""What stands around the loop of alignment: evaluations and what follows from them, checkpoints, the end."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from rewarddance.config.alignment import AlignConfig
from rewarddance.core.errors import CheckpointError, RewardError, UsageError
from rewarddance.generators.protocol import Generator
from rewarddance.training.alignment_evaluation import KIND_PREFIX, Evaluation
from rewarddance.training.alignment_inputs import MadeReferences, stored_references
from rewarddance.training.alignment_progress import AlignmentProgress
from rewarddance.training.checkpoints import complete_at, newest_complete, save_checkpoint, tidy
from rewarddance.training.guard import Guard
from rewarddance.training.guard_verdict import MOST_RAISES, Verdict
from rewarddance.training.method import Method
from rewarddance.training.new_references import has_passed, prompts_to_renew
from rewarddance.training.optimizer_state import optimizer_tensors, restore_optimizer
from rewarddance.training.pause_points import reached
from rewarddance.training.policy_optimizer import PolicyOptimizer, UpdateFigures
from rewarddance.training.regulariser import Pretraining
from rewarddance.training.run_folder import RunFolder, replace_folder
from rewarddance.training.tracking import MetricsLog
from rewarddance.training.workbench import LossPart, Workbench

ExtraCurves = Callable[[Generator, int], Mapping[str, float]]
"""Figures that only the caller can measure (such as gold), of the policy after so many optimizer steps."""

RefreshReferences = Callable[[Generator, int, Sequence[str]], MadeReferences]
"""Reference images by the policy after so many steps, of these prompts; called again for a step, it reads what it
made."""

MEAN_POLICY = "ema"
_HARDER_PULL = 3.0
_HARDEST_PULL = _HARDER_PULL**MOST_RAISES

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AlignmentReport:
    """One line of `metrics.jsonl`.

    Attributes:
        optimizer_step: Updates made, this one included.
        loss: Of this update, regularisers included.
        reward: Mean reward (log-odds) of its pictures, before the update.
        score: Mean of their scores in [0, 1].
        reward_spread: Standard deviation of the reward within a prompt; None if no prompt has several pictures.
        kl: Distance from the reference policy: divergence of the path for a stochastic sampler with a KL weight, else
            the mean squared distance of velocities; None when not measured.
        learning_rate: Of this update.
        gradient_norm: Before it was limited.
        images_per_second: Pictures learned from per second, those of the rollout counted with its first update.
        method: Figures of the method's own.
    """

    optimizer_step: int
    loss: float
    reward: float
    score: float
    reward_spread: float | None
    kl: float | None
    learning_rate: float
    gradient_norm: float
    images_per_second: float
    method: Mapping[str, float]


@dataclass
class AlignmentRun:
    """The parts of a run, and what the loop asks of it beside the updates themselves."""

    config: AlignConfig
    folder: RunFolder
    bench: Workbench
    method: Method
    optimizer: PolicyOptimizer
    pretraining: Pretraining
    evaluation: Evaluation
    guard: Guard | None
    extra_curves: ExtraCurves | None
    refresh: RefreshReferences | None
    progress: AlignmentProgress = field(default_factory=AlignmentProgress)
    saved: AlignmentProgress | None = None
    whole_updates: int = 0

    @property
    def generator(self) -> Generator:
        """What is tuned."""
        return self.bench.policy.generator

    @property
    def logged_evaluation(self) -> int:
        """Evaluations after this step will come again; -1 when all of them will."""
        step = self.progress.evaluated_step
        return -1 if step is None else step

    @property
    def is_whole(self) -> bool:
        """Whether the weights are those of a moment at which a run may go on: no update of a rollout was begun."""
        return self.optimizer.updates == self.whole_updates

    def is_over(self, progress: AlignmentProgress) -> bool:
        """Whether all updates were made, or the guard has ended the run."""
        return progress.ending is not None or progress.optimizer_step >= self.config.optimizer_steps

    def is_finished(self, progress: AlignmentProgress) -> bool:
        """Whether the run is over and its last policy was looked at: SIGTERM may come between the two."""
        return self.is_over(progress) and (
            progress.ending is not None or progress.evaluated_step == progress.optimizer_step
        )

    def updates(self, optimizer_step: int) -> Iterator[Iterable[LossPart]]:
        """The method's next updates, each with the pre-training loss added."""
        for number, parts in enumerate(self.method.updates(optimizer_step)):
            yield chain(parts, self.pretraining.parts(optimizer_step + number))
        self.whole_updates = self.optimizer.updates

    def advanced(self, progress: AlignmentProgress) -> AlignmentProgress:
        """One optimizer step further."""
        if self.refresh is not None:
            self.bench.policy.update_average(MEAN_POLICY, self.config.references.ema_decay)
        made = progress.optimizer_step + 1
        return replace(progress, optimizer_step=made, reward=self.bench.reward.state_dict())

    def report(self, progress: AlignmentProgress, figures: UpdateFigures, seconds: float) -> AlignmentReport:
        """The line of this step."""
        return AlignmentReport(
            optimizer_step=progress.optimizer_step,
            loss=figures.loss,
            reward=figures.reward,
            score=figures.score,
            reward_spread=figures.reward_spread,
            kl=figures.distance,
            learning_rate=figures.learning_rate,
            gradient_norm=figures.gradient_norm,
            images_per_second=self.config.batch_size * self.config.gradient_accumulation / seconds,
            method=figures.method,
        )

    def refreshed(self, progress: AlignmentProgress) -> AlignmentProgress:
        """With new reference images, if their time has come."""
        every, step = self.config.references.refresh_every, progress.optimizer_step
        if self.refresh is None or every is None or not self._has_passed(step, every) or progress.references == step:
            return progress
        return self._with_new_references(progress)

    def evaluated(
        self, progress: AlignmentProgress, evaluations: MetricsLog, observations: MetricsLog
    ) -> AlignmentProgress:
        """With the evaluation of this moment and what the guard makes of it, if its time has come."""
        step = progress.optimizer_step
        if progress.evaluated_step == step or not (step == 0 or self._is_due(step, self.config.evaluate_every)):
            return progress
        seen = self.evaluation.at(step)
        if seen.verdict is not None:
            seen = replace(seen, verdict=self._settled(progress, seen.verdict))
        extra: dict[str, float | None] = {}
        if self.extra_curves is not None:
            with self.bench.policy.precision():
                curves = self.extra_curves(self.generator, step)
            # JSON has no word for what is not finite.
            extra = {name: float(value) if math.isfinite(value) else None for name, value in curves.items()}
        if not any(name.startswith(KIND_PREFIX) for name in extra):  # the caller knows better
            extra |= self.evaluation.score_by_kind(seen.observation)
        reached("evaluation:finished")
        if step == 0 or self._is_due(step, self.config.samples_every):
            self.evaluation.keep_pictures(seen.pixels, self.folder, step)
        evaluations.write(seen.row(extra))
        observations.write(seen.observation.to_json())
        progress = replace(progress, evaluated_step=step)
        return progress if seen.verdict is None else self._acted(progress, seen.verdict)

    def is_save_due(self, progress: AlignmentProgress) -> bool:
        """Whether a checkpoint belongs here: every so often, and wherever the guard may want to come back to."""
        step = progress.optimizer_step
        is_return_point = self.guard is not None and progress.evaluated_step == step
        return is_return_point or (step > 0 and self._is_due(step, self.config.save_every))

    def save(self, progress: AlignmentProgress, *logs: MetricsLog) -> None:
        """Write a checkpoint, unless the very same was written or read; the logs come to the disk before it."""
        saved = self.saved
        if saved is not None and (progress.optimizer_step, progress.evaluated_step) == (
            saved.optimizer_step,
            saved.evaluated_step,
        ):
            return
        for log in logs:
            log.sync()
        save_checkpoint(
            self.folder.checkpoints,
            progress,
            self.bench.policy.state(),
            optimizer_tensors(self.bench.policy.module, self.optimizer.optimizer),
            self.config.keep_checkpoints,
        )
        self.saved = progress

    def restore(self) -> None:
        """Go back to the newest complete checkpoint; to the beginning if there is none yet.

        Raises:
            CheckpointError: There are checkpoints and none is complete, or they belong to another run.
        """
        checkpoint = newest_complete(self.folder.checkpoints, AlignmentProgress)
        tidy(self.folder.checkpoints, checkpoint)
        if checkpoint is None:
            _log.warning("no checkpoint in %s yet: starting from the beginning", self.folder.checkpoints)
            return
        progress: AlignmentProgress = checkpoint.progress
        policy = self.bench.policy
        policy.restore(checkpoint.weights())
        restore_optimizer(policy.module, self.optimizer.optimizer, checkpoint.optimizer())
        if progress.reward:
            self.bench.reward.load_state_dict(progress.reward)
        if self.guard is not None and progress.guard is not None:
            self.guard.load_state_dict(progress.guard)
        self.bench.pull = progress.pull
        if progress.references is not None and self.refresh is not None:
            # Only read: they were finished before the checkpoint was written.
            store = self.refresh(self.generator, progress.references, self._drawn_from(progress.references))
            self.bench.references = stored_references(store, self.config.references.count)
        self.folder.forget_samples_after(progress.optimizer_step)
        self.progress = self.saved = progress
        _log.info("resuming after optimizer step %d from %s", progress.optimizer_step, checkpoint.folder)

    def finish(self, progress: AlignmentProgress) -> Path:
        """Write the generator, with the best weights where the guard has rolled back, whole or not at all."""
        if progress.ending == "roll_back" and progress.best_step is not None:
            best = complete_at(self.folder.checkpoints, progress.best_step, AlignmentProgress)
            if best is None:
                raise CheckpointError(
                    f"the guard rolls back to optimizer step {progress.best_step}, whose checkpoint in "
                    f"{self.folder.checkpoints} is gone or damaged; take another one"
                )
            self.bench.policy.restore(best.weights())
        if self.bench.policy.adapters is not None:
            replace_folder(self.folder.adapter, self.bench.policy.save_adapters)
        replace_folder(self.folder.generator, self.generator.save)
        return self.folder.generator

    def _is_due(self, step: int, every: int) -> bool:
        """Whether a multiple of `every` was passed since the rollout before; the end of the run always counts."""
        return step >= self.config.optimizer_steps or self._has_passed(step, every)

    def _has_passed(self, step: int, every: int) -> bool:
        return has_passed(step, every, self.method.updates_per_rollout)

    def _settled(self, progress: AlignmentProgress, verdict: Verdict) -> Verdict:
        """The verdict with the action that is possible: no run ends worse than it was, or pulls harder than hardest."""
        is_last = verdict.ends_at_best and self.is_over(progress)
        is_hardest = verdict.action == "raise_kl" and self.bench.pull >= _HARDEST_PULL
        return replace(verdict, action="roll_back") if is_last or is_hardest else verdict

    def _acted(self, progress: AlignmentProgress, verdict: Verdict) -> AlignmentProgress:
        """After the guard's verdict and what it asks for."""
        if self.guard is None:
            return progress
        if verdict.state != "healthy":
            _log.warning("optimizer step %d: %s: %s", progress.optimizer_step, verdict.state, verdict.reason)
        progress = replace(
            progress,
            best_step=verdict.best_step,
            kept_steps=verdict.keep_steps,
            verdict=verdict.state,
            guard=self.guard.state_dict(),
        )
        if verdict.action in ("stop", "roll_back"):
            return replace(progress, ending=verdict.action)
        if verdict.action == "raise_kl":
            self.bench.pull = min(self.bench.pull * _HARDER_PULL, _HARDEST_PULL)
            return replace(progress, pull=self.bench.pull)
        if verdict.action == "refresh_references":
            return self._with_new_references(progress)
        return progress

    def _drawn_from(self, optimizer_step: int) -> tuple[str, ...]:
        return prompts_to_renew(self.config, self.bench.draws, optimizer_step, self.method.updates_per_rollout)

    def _with_new_references(self, progress: AlignmentProgress) -> AlignmentProgress:
        if self.is_over(progress):
            return progress  # nobody would be judged against them
        if self.refresh is None:
            raise UsageError("the guard asks for new reference images, and nobody was given to make them")
        policy, prompts = self.bench.policy, self._drawn_from(progress.optimizer_step)
        with policy.using(MEAN_POLICY), policy.precision():
            store = self.refresh(self.generator, progress.optimizer_step, prompts)
        if lacking := store.lacking(prompts):
            raise RewardError(_lacking(store, lacking, len(prompts), progress.optimizer_step))
        self.bench.references = stored_references(store, self.config.references.count)
        return replace(progress, references=progress.optimizer_step)


def _lacking(store: MadeReferences, prompts: Sequence[str], asked: int, optimizer_step: int) -> str:
    row = store.get(prompts[0])
    failed = "" if row is None else "".join(f" ({each.status}: {each.message})" for each in row.failures[:1])
    cause = "it was not asked for" if row is None else f"{row.problem}{failed}"
    return (
        f"new reference images of optimizer step {optimizer_step} are missing for {len(prompts)} of {asked} prompts, "
        f"first {prompts[0]!r}: {cause}; mend the judge, then resume"
    )
