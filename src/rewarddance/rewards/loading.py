"""From a folder or hub id to a reward model; from a vision-language model to the start of a training run."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rewarddance.core.errors import ModelError, UsageError
from rewarddance.core.folder_safety import check_folder_is_safe
from rewarddance.rewards.answers import resolve_answer_tokens
from rewarddance.rewards.backbones.loading import load_backbone, resolve_folder
from rewarddance.rewards.backbones.protocol import AttentionMode, Backbone
from rewarddance.rewards.folder import RECORD_NAME, MediaSettings, ModelRecord, read_record
from rewarddance.rewards.instructions import load_instruction
from rewarddance.rewards.pairwise import PairwiseModel
from rewarddance.rewards.pointwise import PointwiseModel
from rewarddance.rewards.protocol import OrderMode, ReferenceMode, RewardKind, RewardModel
from rewarddance.rewards.scalar import ScalarModel, new_head, read_head

_DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
_ADAPTER_CONFIG, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def load_reward_model(
    path_or_id: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    adapter: str | Path | None = None,
    revision: str | None = None,
    kind: RewardKind | None = None,
    trust_remote_code: bool = False,
    merge_adapter: bool = True,
    attention: AttentionMode | None = None,
) -> RewardModel:
    """Load a reward model for judging; its parameters are frozen.

    Args:
        path_or_id: A folder or hub id with `rewarddance.json`; or a plain instruct vision-language model, which is
            asked as it is (zero-shot, criteria `overall`).
        device: `auto` is the GPU if there is one.
        dtype: `auto` is bfloat16 on a GPU that has it, else float32.
        adapter: A peft LoRA folder or hub id to put on top of the weights.
        revision: Branch, tag or commit on the hub; None for a folder.
        kind: Paradigm of a plain model, `pairwise` (the default) or `pointwise`; for a saved one, what it must be.
        trust_remote_code: Skip the check for pickles and code. A repository's own code is not run either way.
        merge_adapter: Add the adapter to the weights; otherwise it stays apart: exact in bfloat16, but slower.
        attention: What the model must have been trained with; None for whatever it was.

    Raises:
        ModelError: The model is missing, unsafe, damaged or unsuitable.
        UsageError: `kind` or `attention` does not fit, or `device` or `dtype` is unknown.
    """
    folder = _safe_folder(path_or_id, revision, trust_remote_code)
    record = read_record(folder) if (folder / RECORD_NAME).is_file() else None
    if record is None and kind == "scalar":
        raise UsageError(
            f"{path_or_id} is a plain vision-language model without a reward head; train a scalar model first"
        )
    if record is not None and kind is not None and kind != record.kind:
        raise UsageError(f"{path_or_id} is a {record.kind} model, not a {kind} one; leave the kind out")
    trained = "causal" if record is None else record.attention
    if attention is not None and attention != trained:
        raise UsageError(
            f"{path_or_id} was trained with attention {trained}, so its scores with attention {attention} would mean "
            f"nothing; train a model with model.attention={attention}"
        )
    target = _device(device)
    backbone = load_backbone(folder, None, _dtype(dtype, target), target)
    if adapter is not None:
        _apply_adapter(backbone, _safe_folder(adapter, None, trust_remote_code), merge_adapter)
    if record is None:
        record = ModelRecord(
            kind=kind or "pairwise",
            instruction=load_instruction("overall"),
            answers=resolve_answer_tokens(backbone.tokenizer),
            base=_origin(path_or_id),
            base_revision=revision,
        )
    _check_answers(folder, backbone, record)
    backbone.attention = record.attention
    backbone.set_image_limits(record.media.min_pixels, record.media.max_pixels)
    model = _assembled(backbone, record, folder)
    model.module.requires_grad_(False)
    return model


def new_reward_model(
    base: str | Path,
    kind: RewardKind,
    seed: int = 0,
    instruction: str | Path = "overall",
    order_mode: OrderMode = "two",
    reference_mode: ReferenceMode = "one_by_one",
    media: MediaSettings | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    attention: AttentionMode = "causal",
) -> RewardModel:
    """A reward model at the start of its training; its parameters are free.

    Args:
        base: Folder or hub id of a vision-language model; of a saved reward model, its weights are taken over and
            its head, question and criteria are not.
        kind: Paradigm.
        seed: Decides the first weights of a scalar model's head.
        instruction: Name of stored criteria, or the path of a YAML file.
        order_mode: Whether the finished model asks comparisons in both orders.
        reference_mode: Whether it shows several reference images in one question; it must have learned that.
        media: Resolution and frames; None for the family's own.
        device: `auto` is the GPU if there is one.
        dtype: Precision of the weights; what learns should be float32.
        revision: Branch, tag or commit on the hub; None for a folder.
        trust_remote_code: Skip the check of the folder for pickles and code.
        attention: `blocks` trains a model that reads images apart from each other.

    Raises:
        ModelError: The base is missing, unsafe or unsuitable.
        UsageError: Unknown criteria, device or dtype.
    """
    criteria = load_instruction(instruction)
    folder = _safe_folder(base, revision, trust_remote_code)
    target = _device(device)
    backbone = load_backbone(folder, None, _dtype(dtype, target), target)
    record = ModelRecord(
        kind=kind,
        instruction=criteria,
        answers=resolve_answer_tokens(backbone.tokenizer),
        media=media or MediaSettings(),
        order_mode=order_mode,
        reference_mode=reference_mode,
        base=_origin(base),
        base_revision=revision,
        attention=attention,
    )
    backbone.attention = attention
    backbone.set_image_limits(record.media.min_pixels, record.media.max_pixels)
    if kind == "scalar":
        return ScalarModel(backbone, record, new_head(backbone, seed))
    return _assembled(backbone, record, folder)


def _assembled(backbone: Backbone, record: ModelRecord, folder: Path) -> RewardModel:
    match record.kind:
        case "pairwise":
            return PairwiseModel(backbone, record)
        case "pointwise":
            return PointwiseModel(backbone, record)
        case "scalar":
            return ScalarModel(backbone, record, read_head(folder, backbone))


def _safe_folder(path_or_id: str | Path, revision: str | None, trust_remote_code: bool) -> Path:
    folder = resolve_folder(path_or_id, revision)
    check_folder_is_safe(folder, trust_remote_code)
    if (folder / RECORD_NAME).is_file() or (folder / "config.json").is_file() or (folder / _ADAPTER_CONFIG).is_file():
        return folder
    raise ModelError(f"{folder} holds no model: there is no config.json; give the folder that has it")


def _origin(path_or_id: str | Path) -> str:
    folder = Path(path_or_id).expanduser()
    return str(folder.resolve()) if folder.is_dir() else str(path_or_id)


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from error
    found = torch.cuda.device_count()
    if target.type == "cuda" and (target.index or 0) >= found:
        raise UsageError(f"there is no device {device}: PyTorch sees {found} GPUs; use auto or cpu")
    return target


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if dtype not in _DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; use auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _check_answers(folder: Path, backbone: Backbone, record: ModelRecord) -> None:
    known = len(backbone.tokenizer)
    ids = record.answers.label_ids
    if not record.answers.yes_ids or not record.answers.no_ids or min(ids) < 0 or max(ids) >= known:
        raise ModelError(f"{folder / RECORD_NAME} names answer tokens that the tokenizer does not have")


def _apply_adapter(backbone: Any, folder: Path, merge: bool) -> None:
    """Put LoRA matrices into the model's layers, in place.

    Raises:
        ModelError: The adapter is not LoRA, is damaged, or was made for another model.
    """
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        weights = load_file(folder / _ADAPTER_WEIGHTS)
        if not isinstance(config, peft.LoraConfig):
            raise ModelError(f"{folder} holds an adapter of type {config.peft_type}; only LoRA is supported")
        with warnings.catch_warnings():
            # peft asks transformers by a name that transformers has deprecated.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            wrapper: Any = peft.get_peft_model(backbone.model, replace(config, inference_mode=True))
        report: Any = peft.set_peft_model_state_dict(wrapper, weights)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, ModelError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"{folder}: the adapter cannot be put on this model: {reason}") from error
    absent = [name for name in report.missing_keys if "lora_" in name] + list(report.unexpected_keys)
    if absent:
        raise ModelError(f"{folder}: the adapter was made for another model: {absent[0]} does not fit")
    if merge:
        inner = wrapper.merge_and_unload()
        # peft leaves its config behind, and transformers would then save an adapter instead of a model.
        if hasattr(inner, "peft_config"):
            del inner.peft_config
