"""Random-weight vision-language models with the proportions of published ones.

In a comparison of two images of 448 pixels, a model of about 1 B parameters spends two thirds of its work on the
vision tower, and one of 8 B seven eighths on the language model. The small configs keep these shares and the share
of the vocabulary head at 50 to 150 M parameters; the full ones are those of the published models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from rewarddance.rewards.backbones import internvl, qwen3_vl, qwen_patches
from rewarddance.rewards.backbones.loading import load_backbone
from rewarddance.rewards.backbones.vision_language import VisionLanguageBackbone
from tests.tiny_models import tiny_tokenizer


@dataclass(frozen=True, slots=True)
class Tower:
    """Width, depth, inner width, heads and (language) key heads of a transformer."""

    width: int
    depth: int
    inner: int
    heads: int
    key_heads: int = 0
    head_width: int = 0


@dataclass(frozen=True, slots=True)
class Proportions:
    """One model.

    Attributes:
        vision: The vision tower.
        language: The language model.
        vocabulary: Rows of its head.
    """

    vision: Tower
    language: Tower
    vocabulary: int


SMALL: Mapping[str, Mapping[str, Proportions]] = {
    "internvl": {
        "1b": Proportions(Tower(512, 8, 2048, 8), Tower(640, 8, 1920, 10, 2, 64), 16_384),
        "8b": Proportions(Tower(256, 8, 1024, 4), Tower(896, 11, 2688, 14, 2, 64), 12_288),
    },
    "qwen3_vl": {
        "1b": Proportions(Tower(512, 10, 2048, 8), Tower(640, 7, 1920, 10, 2, 64), 16_384),
        "8b": Proportions(Tower(256, 10, 1024, 4), Tower(896, 11, 2688, 14, 2, 64), 12_288),
    },
}

# Published configs: InternVL3.5 1B and 8B; Qwen3-VL 2B and 8B.
FULL: Mapping[str, Mapping[str, Proportions]] = {
    "internvl": {
        "1b": Proportions(Tower(1024, 24, 4096, 16), Tower(1024, 28, 3072, 16, 8, 128), 151_936),
        "8b": Proportions(Tower(1024, 24, 4096, 16), Tower(4096, 36, 12_288, 32, 8, 128), 151_936),
    },
    "qwen3_vl": {
        "1b": Proportions(Tower(1024, 24, 4096, 16), Tower(2048, 28, 6144, 16, 8, 128), 151_936),
        "8b": Proportions(Tower(1152, 27, 4304, 16), Tower(4096, 36, 12_288, 32, 8, 128), 151_936),
    },
}


def build(
    family: str, proportions: Proportions, side: int, folder: Path, device: str, dtype: torch.dtype
) -> VisionLanguageBackbone:
    """A model whose images have `side` pixels, through a folder in hub layout so that loading is the usual one."""
    torch.manual_seed(0)
    make = _internvl if family == "internvl" else _qwen3_vl
    model, tokenizer, preprocessor = make(proportions, side)
    model.to(dtype).save_pretrained(folder)
    del model
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(_json(preprocessor), encoding="utf-8")
    backbone = load_backbone(folder, dtype=dtype, device=device)
    backbone.model.requires_grad_(False)
    return backbone


def _internvl(proportions: Proportions, side: int) -> tuple[Any, Any, dict[str, Any]]:
    names = {"context_image_token": internvl.IMAGE_TOKEN}
    tokenizer = tiny_tokenizer((*internvl.SPECIAL_TOKENS, "<video>"), internvl.CHAT_TEMPLATE, names)
    vision = proportions.vision
    config = InternVLConfig(
        vision_config={
            "hidden_size": vision.width,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.heads,
            "intermediate_size": vision.inner,
            "image_size": [side, side],
            "patch_size": [14, 14],
        },
        text_config={"model_type": "qwen3", **_text(proportions, tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids(internvl.IMAGE_TOKEN),
        image_seq_length=(side // 28) ** 2,
        downsample_ratio=0.5,
    )
    preprocessor = {"image_processor_type": "GotOcr2ImageProcessor", "size": {"height": side, "width": side}}
    return InternVLForConditionalGeneration(config), tokenizer, preprocessor


def _qwen3_vl(proportions: Proportions, side: int) -> tuple[Any, Any, dict[str, Any]]:
    tokenizer = tiny_tokenizer((*qwen_patches.SPECIAL_TOKENS, "<|video_pad|>"), qwen3_vl.CHAT_TEMPLATE, {})
    vision, width = proportions.vision, proportions.language.head_width
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    config = Qwen3VLConfig(
        vision_config={
            "depth": vision.depth,
            "hidden_size": vision.width,
            "intermediate_size": vision.inner,
            "num_heads": vision.heads,
            "patch_size": 16,
            "out_hidden_size": proportions.language.width,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [vision.depth // 3],
        },
        text_config={
            **_text(proportions, tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": [width // 2 - 2 * (width // 6), width // 6, width // 6],
                "mrope_interleaved": True,
            },
        },
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 16,
        "size": {"shortest_edge": side * side, "longest_edge": side * side},
    }
    return Qwen3VLForConditionalGeneration(config), tokenizer, preprocessor


def _text(proportions: Proportions, tokenizer: Any) -> dict[str, Any]:
    language = proportions.language
    return {
        "hidden_size": language.width,
        "num_hidden_layers": language.depth,
        "num_attention_heads": language.heads,
        "num_key_value_heads": language.key_heads,
        "head_dim": language.head_width,
        "intermediate_size": language.inner,
        "vocab_size": proportions.vocabulary,
        "max_position_embeddings": 8192,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.pad_token_id,
    }


def _json(content: Mapping[str, Any]) -> str:
    import json

    return json.dumps(content, indent=2) + "\n"
