"""What a run learns beside the choices, from its config: rationales, and a teacher's answers."""

import logging
from pathlib import Path

import torch

from rewarddance.config.reasoning import DistillationConfig
from rewarddance.config.training import TrainConfig
from rewarddance.core.errors import DataError, UsageError
from rewarddance.rewards.backbones.loading import HUB_ID
from rewarddance.rewards.folder import RECORD_NAME, ModelRecord, read_record
from rewarddance.rewards.loading import load_reward_model
from rewarddance.rewards.protocol import RewardModel
from rewarddance.training.distillation import teach
from rewarddance.training.learner import Learner
from rewarddance.training.learning_data import ChosenComparisons
from rewarddance.training.prepared_batches import Extras
from rewarddance.training.run_folder import RunFolder

_MODEL_CONFIG = "config.json"

_log = logging.getLogger(__name__)


def check_extras(config: TrainConfig, comparisons: ChosenComparisons) -> None:
    """Whether there is what the config wants to learn; reads no weights.

    Raises:
        DataError: Rationales are to be learned and no comparison has one.
        UsageError: There is no model in the teacher's folder, or one that cannot be asked so. A hub id is looked at
            when it is loaded.
    """
    if config.distillation is not None:
        _check_teacher(config.distillation)
    if config.rationale is not None:
        _check_rationales(comparisons)


def _check_teacher(settings: DistillationConfig) -> None:
    """What the files of a local teacher say."""
    folder = Path(settings.teacher).expanduser()
    if (folder / RECORD_NAME).is_file():
        record = read_record(folder)
        if settings.teacher_kind not in (None, record.kind):
            raise UsageError(
                f"distillation.teacher {folder} is a {record.kind} model, not a {settings.teacher_kind} one; "
                "leave teacher_kind out"
            )
        if settings.format == "reason_first":
            _check_can_reason(folder, record)
        return
    if settings.teacher_kind == "scalar":
        raise UsageError(
            f"distillation.teacher {folder} is not known to be a scalar model; leave teacher_kind out for a trained one"
        )
    if not (folder / _MODEL_CONFIG).is_file() and (folder.exists() or not HUB_ID.match(settings.teacher)):
        raise UsageError(
            f"distillation.teacher {folder} holds no model (there is neither {RECORD_NAME} nor {_MODEL_CONFIG}); "
            "give a folder that has one, or a hub id like OWNER/NAME"
        )


def _check_can_reason(teacher: Path, record: ModelRecord) -> None:
    """Whether a teacher can give its reasons first."""
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


def load_teacher(settings: DistillationConfig, device: torch.device) -> RewardModel:
    """The teacher in process.

    Raises:
        ModelError: It cannot be loaded.
        UsageError: It is of another kind than the config says.
    """
    return load_reward_model(
        settings.teacher, device=device, revision=settings.teacher_revision, kind=settings.teacher_kind
    )


def extras_of(config: TrainConfig, comparisons: ChosenComparisons, folder: RunFolder, learner: Learner) -> Extras:
    """Rationales to learn and a teacher's answers, as far as the config asks for them.

    Raises:
        DataError: The teacher answered no comparison.
        ModelError: The teacher cannot be loaded.
    """
    share, keeps_swapped = None, False
    if config.rationale is not None:
        share, keeps_swapped = config.rationale.reason_first_share, config.rationale.when_swapped == "exchanged"
    if config.distillation is None:
        return Extras(share, keeps_swapped)
    asked = config.distillation
    teaching = teach(
        asked,
        config.seed,
        comparisons,
        folder.path,
        learner.share,
        load_teacher=lambda: load_teacher(asked, learner.device),
        wait_for_everyone=learner.wait_for_everyone,
    )
    return Extras(share, keeps_swapped, teaching)


def told_of_reasoning(config: TrainConfig, extras: Extras) -> dict[str, object]:
    """What the saved model says about it; empty when neither was learned."""
    told: dict[str, object] = {}
    if config.rationale is not None:
        told["rationale_answer_weight"] = config.rationale.answer_weight
        told["reason_first_share"] = config.rationale.reason_first_share
        told["rationale_when_swapped"] = config.rationale.when_swapped
    if config.distillation is not None and extras.teaching is not None:
        settings = config.distillation
        told["teacher"] = settings.teacher
        told["teacher_format"] = settings.format
        told["teacher_samples"] = settings.samples if settings.format == "reason_first" else 1
        told["teacher_weight"] = settings.weight
        told["teacher_temperature"] = settings.temperature
        told["teacher_answers"] = extras.teaching.count
        told["unjudged_comparisons"] = extras.teaching.unjudged
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
