"""What a run learns beside the choices, from its config: rationales, and a teacher's answers."""

import logging
from pathlib import Path

from rewarddance.config.training import TrainConfig
from rewarddance.core.errors import DataError, UsageError
from rewarddance.rewards.folder import RECORD_NAME, read_record
from rewarddance.rewards.loading import load_reward_model
from rewarddance.training.distillation import teach
from rewarddance.training.learner import Learner
from rewarddance.training.learning_data import ChosenComparisons
from rewarddance.training.prepared_batches import Extras
from rewarddance.training.run_folder import RunFolder

_log = logging.getLogger(__name__)


def check_extras(config: TrainConfig, comparisons: ChosenComparisons) -> None:
    """Whether there is what the config wants to learn; reads no weights.

    Raises:
        DataError: Rationales are to be learned and no comparison has one.
        UsageError: There is no reward model in the teacher's folder.
    """
    distillation = config.distillation
    if distillation is not None and not (distillation.teacher / RECORD_NAME).is_file():
        raise UsageError(
            f"distillation.teacher {distillation.teacher} holds no reward model ({RECORD_NAME} is missing)"
        )
    if distillation is not None and distillation.format == "reason_first":
        _check_can_reason(distillation.teacher)
    if config.rationale is not None:
        _check_rationales(comparisons)


def _check_can_reason(teacher: Path) -> None:
    """Whether a teacher can give its reasons first."""
    record = read_record(teacher)
    cause = None
    if record.kind == "scalar":
        cause = "is scalar"
    elif record.attention == "blocks":
        cause = "is in block mode"
    if cause is not None:
        raise UsageError(
            f"distillation.teacher {teacher} {cause} and gives no reasons before its answer; "
            "set distillation.format answer_first"
        )


def extras_of(config: TrainConfig, comparisons: ChosenComparisons, folder: RunFolder, learner: Learner) -> Extras:
    """Rationales to learn and a teacher's answers, as far as the config asks for them.

    Raises:
        DataError: The teacher answered no comparison.
        ModelError: The teacher cannot be loaded.
    """
    share = None if config.rationale is None else config.rationale.reason_first_share
    if config.distillation is None:
        return Extras(share)
    teacher = config.distillation.teacher
    teaching = teach(
        config.distillation,
        config.seed,
        comparisons,
        folder.path,
        learner.share,
        load_teacher=lambda: load_reward_model(teacher, device=learner.device),
        wait_for_everyone=learner.wait_for_everyone,
    )
    return Extras(share, teaching)


def told_of_reasoning(config: TrainConfig, extras: Extras) -> dict[str, object]:
    """What the saved model says about it; empty when neither was learned."""
    told: dict[str, object] = {}
    if config.rationale is not None:
        told["rationale_answer_weight"] = config.rationale.answer_weight
        told["reason_first_share"] = config.rationale.reason_first_share
    if config.distillation is not None and extras.teaching is not None:
        settings = config.distillation
        told["teacher"] = str(settings.teacher)
        told["teacher_format"] = settings.format
        told["teacher_samples"] = settings.samples if settings.format == "reason_first" else 1
        told["teacher_weight"] = settings.weight
        told["teacher_temperature"] = settings.temperature
        told["teacher_answers"] = extras.teaching.count
        told["teacher_generated_tokens"] = extras.teaching.generated_tokens
    return told


def _check_rationales(comparisons: ChosenComparisons) -> None:
    wanted = set(comparisons.indices)
    # In the order of the rows, which is how a stored set is read fastest.
    count = sum(
        index in wanted and comparison.rationale is not None for index, comparison in enumerate(comparisons.comparisons)
    )
    if count == 0:
        raise DataError(
            "rationale is set, but no comparison to learn from has a rationale; "
            "collect some with `rewarddance rationales`, or set rationale to null"
        )
    if count < len(comparisons):
        _log.warning(
            "%d of %d comparisons have a rationale; the others teach the answer alone", count, len(comparisons)
        )
