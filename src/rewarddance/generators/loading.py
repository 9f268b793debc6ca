"""From a folder or hub id to a generator.

A folder's `model_index.json` names the pipeline; only pipelines of the table below are loaded, with components from
diffusers and transformers, from safetensors.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from rewarddance.core.errors import ModelError, UsageError
from rewarddance.core.folder_safety import check_folder_is_safe, refuse_revision
from rewarddance.generators.adapter_file import adapter_file
from rewarddance.generators.adapters import load_adapters
from rewarddance.generators.flux import Flux
from rewarddance.generators.pipeline_generator import Family, PipelineGenerator
from rewarddance.generators.protocol import Generator
from rewarddance.generators.qwen_image import QwenImage
from rewarddance.generators.schedule import check_scheduler
from rewarddance.generators.sd3 import StableDiffusion3
from rewarddance.generators.wan import Wan

FAMILIES: Mapping[str, Callable[[Any], Family]] = {
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "QwenImagePipeline": QwenImage,
    "WanPipeline": Wan,
}
"""Families by the `_class_name` of `model_index.json`."""

DRAWN_PIPELINE = "DrawnPipeline"
"""The lab's own generator."""

_INDEX_NAME = "model_index.json"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
_LIBRARIES = frozenset({"diffusers", "transformers"})
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)


def load_generator(
    path_or_id: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    adapter: str | Path | None = None,
) -> Generator:
    """Load a generator; all its parameters are frozen, whoever tunes it frees what is tuned.

    Args:
        path_or_id: A folder in diffusers' layout, or a hub id, which is downloaded without pickles and code.
        device: `auto` is the GPU if there is one.
        dtype: Precision of the weights; `auto` is bfloat16 on a GPU that has it, else float32. The lab's generator,
            which makes pixels without a decoder, stays in float32.
        revision: Branch, tag or commit on the hub; None for a folder.
        trust_remote_code: Skip the check for pickles and code. A repository's own code is not run either way.
        adapter: Folder of a tuned generator's adapters: `adapter/` of a run of `align`, or another that diffusers'
            `load_lora_weights` reads. They stay beside the weights in float32, and the generator computes as the
            tuned policy did, in bfloat16 too (under autocast); nothing is rounded away. None for the generator as it
            is.

    Raises:
        ModelError: The generator or the adapter is missing, unsafe, damaged, of an unknown family or of another
            generator.
        UsageError: Unknown device or dtype.
    """
    target = _device(device)
    precision = _dtype(dtype, target)
    if adapter is not None:
        adapter_file(Path(adapter))  # what is quick to check comes before what is slow to load
    folder = _folder(path_or_id, revision)
    check_folder_is_safe(folder, trust_remote_code)
    index = _index(folder)
    class_name = index["_class_name"]
    if class_name == DRAWN_PIPELINE:
        # Loaded here: the drawn world's generator needs none of the families above.
        from rewarddance.generators.drawn import load_drawn

        drawn = load_drawn(folder, target) if dtype == "auto" else load_drawn(folder, target, precision)
        return _adapted(drawn, adapter)
    _refuse_variants(folder, index)
    _require_parts(folder, index)
    pipeline = _pipeline(folder, index, precision)
    check_scheduler(pipeline.scheduler, takes_multistep=class_name == "WanPipeline")
    if class_name == "QwenImagePipeline" and pipeline.transformer.config.guidance_embeds:
        raise ModelError(f"{folder} is a guidance-distilled Qwen-Image, which diffusers cannot run yet")
    return _adapted(PipelineGenerator(FAMILIES[class_name](pipeline.to(target))), adapter)


def _adapted(generator: Generator, adapter: str | Path | None) -> Generator:
    if adapter is not None:
        load_adapters(generator.module, Path(adapter))
    return generator


def _pipeline(folder: Path, index: Mapping[str, Any], dtype: torch.dtype) -> Any:
    options = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    try:
        with _quiet():
            import diffusers

            encoders = {
                name: _text_encoder(folder / name, home[1], options)
                for name, home in index.items()
                if name.startswith("text_encoder") and home[0] is not None
            }
            pipeline_class: Any = getattr(diffusers, index["_class_name"])
            pipeline: Any = pipeline_class.from_pretrained(folder, **encoders, **options)
    except _LOAD_ERRORS as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{folder}: the generator cannot be loaded: {_first_line(error)}") from error
    for name in ("transformer", "vae"):
        # diffusers leaves a weight that no file holds without a value, and says nothing.
        _refuse_absent(
            folder / name, [key for key, value in getattr(pipeline, name).named_parameters() if value.is_meta]
        )
    return pipeline


def _text_encoder(folder: Path, class_name: str, options: Mapping[str, Any]) -> Any:
    """One text encoder with all its weights; transformers fills in random ones where a file has none."""
    encoder, report = getattr(transformers, class_name).from_pretrained(folder, **options, output_loading_info=True)
    _refuse_absent(folder, sorted(report["missing_keys"]))
    return encoder


def _refuse_absent(folder: Path, absent: Sequence[str]) -> None:
    if absent:
        raise ModelError(f"{folder}: {len(absent)} weights are missing, such as {absent[0]}; copy the folder again")


def _index(folder: Path) -> dict[str, Any]:
    """What a folder's index says, when the pipeline is a known one and made of known libraries' parts."""
    path = folder / _INDEX_NAME
    if not path.is_file():
        raise ModelError(f"{folder} holds no generator: there is no {_INDEX_NAME}; give a folder in diffusers' layout")
    index: Any = json.loads(path.read_text(encoding="utf-8"))
    name = index.get("_class_name") if isinstance(index, dict) else None
    if name == DRAWN_PIPELINE:
        return dict(index)
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(f"{path} names the pipeline {name!r}; known are {', '.join(sorted(FAMILIES))}")
    for part, home in index.items():
        # diffusers imports whatever library is named here.
        if isinstance(home, list) and home[0] is not None and home[0] not in _LIBRARIES:
            raise ModelError(f"{path} takes {part} from {home[0]!r}; only diffusers and transformers are allowed")
    return dict(index)


def _refuse_variants(folder: Path, index: Mapping[str, Any]) -> None:
    """Wan 2.2 under the pipeline's name of Wan 2.1: two networks share the way, or each patch has a noise level."""
    second = index.get("transformer_2")
    has_two = isinstance(second, list) and second[0] is not None
    if has_two or index.get("boundary_ratio") is not None or index.get("expand_timesteps"):
        raise ModelError(f"{folder} is of Wan 2.2, which is not supported; give a Wan 2.1 that makes clips from text")


def _require_parts(folder: Path, index: Mapping[str, Any]) -> None:
    """Every part that the index names; where one is missing, transformers makes a tokenizer without any words."""
    for part, home in index.items():
        if not isinstance(home, list) or home[0] is None:
            continue
        if not (folder / part).is_dir():
            raise ModelError(f"{folder} has no folder {part}, which {_INDEX_NAME} names; copy the generator again")
        if part.startswith("tokenizer") and not any((folder / part / name).is_file() for name in _VOCABULARIES):
            raise ModelError(f"{folder / part} has no vocabulary ({', '.join(_VOCABULARIES)}); copy it again")


def _folder(path_or_id: str | Path, revision: str | None) -> Path:
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        refuse_revision(folder, revision)
        return folder
    if folder.is_file():
        raise ModelError(f"{path_or_id} is a file, not a generator's folder; give the folder that holds {_INDEX_NAME}")
    if isinstance(path_or_id, Path) or not _HUB_ID.match(path_or_id) or path_or_id.startswith("."):
        hint = "; in Python, lab:drawn is rewarddance.lab_generator()" if str(path_or_id).startswith("lab:") else ""
        raise ModelError(
            f"generator folder {path_or_id} does not exist; give a folder or a hub id like OWNER/NAME{hint}"
        )
    try:
        with _quiet():
            from diffusers import DiffusionPipeline

            return Path(DiffusionPipeline.download(path_or_id, revision=revision, use_safetensors=True))
    except _LOAD_ERRORS as error:
        raise ModelError(
            f"{path_or_id} is no folder here and could not be fetched from the hub ({_first_line(error)}); "
            "check the name and the connection"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks that transformers makes about image processors that no generator uses."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


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
