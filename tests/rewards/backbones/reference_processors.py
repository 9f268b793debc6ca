"""The families' own transformers processors on the PIL backend, as the standard that ours is measured by."""

from pathlib import Path
from typing import Any

import pytest
from PIL.Image import Image
from transformers import (
    AutoTokenizer,
    GotOcr2ImageProcessorPil,
    InternVLProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen3VLProcessor,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
)
from transformers.models.smolvlm import processing_smolvlm

from rewarddance.rewards.backbones.loading import preprocessor_settings

_IMAGE_PROCESSORS: dict[str, Any] = {
    "internvl": GotOcr2ImageProcessorPil,
    "qwen2_5_vl": Qwen2VLImageProcessorPil,
    "qwen3_vl": Qwen2VLImageProcessorPil,
    "smolvlm": SmolVLMImageProcessorPil,
}


def _without_video(processor_class: Any) -> Any:
    """Video processors need torchvision, so the check that one was given is switched off."""

    def check(self: Any, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor" and argument is None:
            return type(None)
        return processor_class.check_argument_for_proper_class(self, argument_name, argument)

    return type(processor_class.__name__, (processor_class,), {"check_argument_for_proper_class": check})


def reference_image_processor(family: str, folder: Path, **overrides: Any) -> Any:
    """The family's PIL image processor with the folder's settings."""
    return _IMAGE_PROCESSORS[family](**{**preprocessor_settings(folder), **overrides})


def reference_processor(family: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **overrides: Any) -> Any:
    """The family's whole processor; `overrides` go to the image processor."""
    images = reference_image_processor(family, folder, **overrides)
    parts = {"image_processor": images, "tokenizer": AutoTokenizer.from_pretrained(folder), "video_processor": None}
    if family == "internvl":
        # This processor tiles whatever the image processor's config says, unless it is told otherwise.
        told = {"images_kwargs": {"crop_to_patches": images.crop_to_patches}}
        tiling_as_configured = type("InternVLProcessor", (_without_video(InternVLProcessor),), told)
        return tiling_as_configured(**parts, image_seq_length=4)
    if family == "smolvlm":
        # Only spells out the number of frames of a clip, but is required by the constructor.
        monkeypatch.setattr(processing_smolvlm, "num2words", str)
        return _without_video(SmolVLMProcessor)(**parts, image_seq_len=4)
    return _without_video({"qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}[family])(**parts)


def reference_inputs(processor: Any, parts: list[str | Image]) -> Any:
    """What plain transformers makes of one user turn: template, placeholder expansion, tokens and pixels."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    images = [part for part in parts if not isinstance(part, str)]
    return processor(text=[text], images=images, return_tensors="pt")
