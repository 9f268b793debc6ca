"""From a folder or hub id to a backbone."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoTokenizer

from rewarddance.core.errors import ModelError
from rewarddance.core.folder_safety import refuse_revision
from rewarddance.rewards.backbones import internvl, qwen2_5_vl, qwen3_vl, qwen_patches, smolvlm
from rewarddance.rewards.backbones.layout import Layout
from rewarddance.rewards.backbones.vision_language import VisionLanguageBackbone

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


@dataclass(frozen=True, slots=True)
class Family:
    """What loading needs to know of a family.

    Attributes:
        layout: Reads the layout from the model config and the preprocessor config.
        chat_template: The family's chat format, for a folder without a template.
        special_tokens: Tokens without which there is no chat format.
    """

    layout: Callable[[Any, Mapping[str, Any]], Layout]
    chat_template: str
    special_tokens: tuple[str, ...]


FAMILIES: Mapping[str, Family] = {
    "internvl": Family(internvl.internvl_layout, internvl.CHAT_TEMPLATE, internvl.SPECIAL_TOKENS),
    "qwen2_5_vl": Family(qwen2_5_vl.qwen2_5_vl_layout, qwen2_5_vl.CHAT_TEMPLATE, qwen_patches.SPECIAL_TOKENS),
    "qwen3_vl": Family(qwen3_vl.qwen3_vl_layout, qwen3_vl.CHAT_TEMPLATE, qwen_patches.SPECIAL_TOKENS),
    "smolvlm": Family(smolvlm.smolvlm_layout, smolvlm.CHAT_TEMPLATE, smolvlm.SPECIAL_TOKENS),
}
"""Families by the `model_type` of `config.json`."""


def load_backbone(
    path_or_id: str | Path,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> VisionLanguageBackbone:
    """Load a vision-language model with its token layout and preprocessing.

    Args:
        path_or_id: A local folder, or an id on the Hugging Face hub.
        revision: Branch, tag or commit on the hub; None for a folder.
        dtype: Precision of the weights.
        device: Where the weights go.

    Raises:
        ModelError: The model is missing, incomplete, of an unknown family, or has no chat format.
    """
    folder = resolve_folder(path_or_id, revision)
    model_type = str(_read_json(folder / "config.json").get("model_type"))
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(f"{path_or_id}: model_type {model_type!r} is not a known family; known are {known}")
    family = FAMILIES[model_type]
    settings = preprocessor_settings(folder)
    tokenizer = _load_tokenizer(folder, model_type, family)
    model = _load_model(folder, dtype)
    layout = _layout(folder, family, model.config, settings)
    return VisionLanguageBackbone(model_type, model.to(device).eval(), tokenizer, layout)


def resolve_folder(path_or_id: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model; a hub id is downloaded to the hub's cache (no pickles, no code).

    Raises:
        ModelError: No such folder, or the hub has no such model or cannot be reached.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        refuse_revision(folder, revision)
        return folder
    if folder.is_file():
        raise ModelError(f"{path_or_id} is a file, not a model folder; give the folder that holds config.json")
    if isinstance(path_or_id, Path) or not HUB_ID.match(path_or_id) or path_or_id.startswith("."):
        hint = "; in Python, lab:SIZE is rewarddance.lab_base(SIZE)" if str(path_or_id).startswith("lab:") else ""
        raise ModelError(f"model folder {path_or_id} does not exist; give a folder or a hub id like OWNER/NAME{hint}")
    try:
        return Path(snapshot_download(path_or_id, revision=revision, allow_patterns=HUB_FILES))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{path_or_id} is no folder here and could not be fetched from the hub ({reason}); "
            "check the name and the connection"
        ) from error


def preprocessor_settings(folder: Path) -> dict[str, Any]:
    """The image processor's config, from whichever file transformers saved it in.

    Raises:
        ModelError: Neither file is there.
    """
    processor = folder / "processor_config.json"
    if processor.is_file() and isinstance(nested := _read_json(processor).get("image_processor"), dict):
        return nested
    single = folder / "preprocessor_config.json"
    if not single.is_file():
        raise ModelError(f"{folder} has no preprocessor_config.json; copy it from the model it was made from")
    return _read_json(single)


def _load_tokenizer(folder: Path, model_type: str, family: Family) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(":")
        raise ModelError(
            f"{folder} has no readable tokenizer ({reason}); copy its tokenizer files from the model it was made from"
        ) from error
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in family.special_tokens if token not in vocabulary]
    if missing:
        raise ModelError(
            f"{folder}: no chat format: the tokenizer lacks {', '.join(missing)}; use an instruct model of {model_type}"
        )
    tokenizer.chat_template = _chat_template(folder) or tokenizer.chat_template or family.chat_template
    return tokenizer


def _chat_template(folder: Path) -> str | None:
    """The processor's template, which knows images; older repositories keep it in a file of its own."""
    single = folder / "chat_template.jinja"
    if single.is_file():
        return single.read_text(encoding="utf-8")
    wrapped = folder / "chat_template.json"
    if wrapped.is_file():
        template = _read_json(wrapped).get("chat_template")
        return template if isinstance(template, str) else None
    return None


def _load_model(folder: Path, dtype: torch.dtype) -> Any:
    try:
        # Typed as a model alone, but `output_loading_info` makes it a pair.
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(":")
        raise ModelError(
            f"{folder}: the weights cannot be loaded ({reason}); copy or download the model again"
        ) from error
    model, report = loaded
    absent = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if absent:
        raise ModelError(f"{folder}: {len(absent)} weights are missing or misshapen, such as {absent[0]}")
    return model


def _layout(folder: Path, family: Family, config: Any, settings: Mapping[str, Any]) -> Layout:
    try:
        return family.layout(config, settings)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder}: the image settings do not fit the model ({error}); "
            "copy preprocessor_config.json from the model it was made from"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path.parent} has no readable {path.name}; give a complete model folder") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object")
    return content
