"""A saved reward model: a Hugging Face folder plus `rewarddance.json`, which says how it judges.

The record is written last and holds the hash of every other file, so a folder with a record is a whole folder, and
a flipped bit in the weights, which safetensors loads without a word, is found.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import TypeAdapter, ValidationError

from rewarddance.core.errors import ModelError
from rewarddance.core.files import sha256_of, write_json_atomic, write_text_atomic
from rewarddance.rewards.answers import AnswerTokens
from rewarddance.rewards.backbones.protocol import AttentionMode, Backbone
from rewarddance.rewards.instructions import Instruction
from rewarddance.rewards.protocol import OrderMode, ReferenceMode, RewardKind
from rewarddance.rewards.questions import QuestionWording

RECORD_NAME = "rewarddance.json"

_CARD_NAME = "README.md"
_PACKAGES = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """How media are shown to the model.

    Attributes:
        min_pixels: Smaller images are enlarged to about this many pixels; None for the family's own bound.
        max_pixels: Larger images are reduced to about this many pixels; None for the family's own bound.
        frames_per_clip: Evenly spaced frames that stand for a clip.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    frames_per_clip: int = 8


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Everything about a reward model that is not a weight: enough to ask the same question again.

    Attributes:
        kind: The paradigm.
        instruction: The model's own criteria, whole.
        answers: Token ids of yes and no.
        wording: The fixed words of the question.
        media: How media are shown.
        order_mode: Whether comparisons are asked in both orders.
        attention: Whether an image reads what stands before it, or was trained to read the question's head alone.
        reference_mode: Whether several reference images are shown in one question, as the model has learned.
        instruction_sha256: Digest of the criteria's text; filled in when the record is written.
        base: Folder or hub id of the vision-language model that training started from; None when unknown.
        base_revision: Commit, branch or tag of that hub id.
        training: What the model was trained on, in the trainer's words; None for an untrained model.
        versions: Of the packages that wrote the folder.
        files: SHA-256 of every other file of the folder, by relative path.
        schema_version: Of this record.
    """

    kind: RewardKind
    instruction: Instruction
    answers: AnswerTokens
    wording: QuestionWording = field(default_factory=QuestionWording)
    media: MediaSettings = field(default_factory=MediaSettings)
    order_mode: OrderMode = "two"
    attention: AttentionMode = "causal"
    reference_mode: ReferenceMode = "one_by_one"
    instruction_sha256: str | None = None
    base: str | None = None
    base_revision: str | None = None
    training: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    schema_version: Literal[1] = 1


_ADAPTER = TypeAdapter(ModelRecord)


def save_model(folder: Path, backbone: Backbone, record: ModelRecord, training: Mapping[str, Any] | None) -> None:
    """Write a whole model folder.

    Args:
        folder: Made if it is missing; an older record in it is removed first, so that it cannot vouch for new files.
        backbone: Writes weights, config, tokenizer and preprocessor files.
        record: How the model judges.
        training: What it was trained on.

    Raises:
        ModelError: An adapter is still apart from the weights.
    """
    if any(isinstance(part, BaseTunerLayer) for part in backbone.model.modules()):
        raise ModelError("the model holds an adapter that is not merged; merge it, or save the adapter with peft")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD_NAME).unlink(missing_ok=True)
    backbone.save(folder)
    write_record(folder, replace(record, training=None if training is None else dict(training)))


def write_record(folder: Path, record: ModelRecord) -> None:
    """Finish a model folder: model card, then the record with the hash of every other file.

    Args:
        folder: Holds the weights and everything else; nothing may be written to it afterwards.
        record: Its `files` and `versions` are filled in here.
    """
    write_text_atomic(folder / _CARD_NAME, model_card(record))
    digest = record.instruction.sha256
    complete = replace(record, files=_hashes(folder), versions=_versions(), instruction_sha256=digest)
    write_json_atomic(folder / RECORD_NAME, asdict(complete))


def read_record(folder: Path) -> ModelRecord:
    """How the model in a folder judges, after checking that every file is as it was written.

    Raises:
        ModelError: The record cannot be read, or a file is missing or has changed.
    """
    record = parse_record(folder / RECORD_NAME)
    for name, digest in record.files.items():
        _check_file(folder, name, digest)
    return record


def parse_record(path: Path) -> ModelRecord:
    """How a model judges, from its record alone; the files beside it are not looked at.

    Raises:
        ModelError: The record cannot be read.
    """
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the file"
        raise ModelError(
            f"{path} cannot be read ({where}: {first['msg']}); it was damaged or written by another version"
        ) from error


def model_card(record: ModelRecord) -> str:
    """The README of a model folder, with the metadata block that the hub reads."""
    base = f"base_model: {record.base}\n" if record.base is not None and not Path(record.base).is_absolute() else ""
    trained = "untrained (zero-shot)" if record.training is None else _sentence(record.training)
    return (
        "---\n"
        "library_name: rewarddance\n"
        "pipeline_tag: image-text-to-text\n"
        f"{base}"
        f"tags: [reward-model, rewarddance, {record.kind}]\n"
        "---\n\n"
        f"# RewardDance reward model ({record.kind})\n\n"
        f"- Criteria: `{record.instruction.name}`, version {record.instruction.version}, "
        f"sha256 `{record.instruction.sha256[:16]}`\n"
        f"- Orders asked: {record.order_mode}\n"
        f"- Training: {trained}\n\n"
        "```python\n"
        "import rewarddance\n\n"
        'model = rewarddance.load_reward_model("this folder")\n'
        'print(model.compare("a red cube", "candidate.png", "reference.png").score)\n'
        "```\n\n"
        f"`{RECORD_NAME}` holds the question, the answer tokens and the hash of every file.\n"
    )


def _sentence(training: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in training.items())


def _hashes(folder: Path) -> dict[str, str]:
    # The card is left out: its owner may edit it.
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        name: sha256_of(path)
        for path in paths
        if (name := path.relative_to(folder).as_posix()) not in (RECORD_NAME, _CARD_NAME)
    }


def _versions() -> dict[str, str]:
    from rewarddance import __version__

    return {
        "rewarddance": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }


def _check_file(folder: Path, name: str, digest: str) -> None:
    path = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ModelError(f"{folder / RECORD_NAME} names the file {name!r} outside its folder; do not load it")
    if not path.is_file():
        raise ModelError(f"{path} is missing; copy or download the model again")
    if sha256_of(path) != digest:
        raise ModelError(
            f"{path} has changed since it was saved (its sha256 differs); copy or download the model again"
        )
