"""Tiny random-weight models of the four families, saved to a folder in hub layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from rewarddance.rewards.backbones import internvl, qwen2_5_vl, qwen3_vl, qwen_patches, smolvlm

FAMILIES = ("internvl", "qwen2_5_vl", "qwen3_vl", "smolvlm")

SENTENCES = (
    "Is image 2 better than image 1 for the prompt? Answer yes or no.",
    "Yes yes yes No no no, yes. no. Yes, No! YES NO",
    "a red square left of two blue circles and a green triangle",
    "Prompt: a photo of a dog. Criteria: text-image alignment, structure, aesthetics.",
    "Does the image show the prompt? Compare both images with care.",
    "user assistant system image picture first second",
)
ANSWER_WORDS = ("yes", "no", "Yes", "No", "YES", "NO", " yes", " no", " Yes", " No", " YES", " NO")

PAD_TOKEN = "<|endoftext|>"


def tiny_tokenizer(special_tokens: tuple[str, ...], chat_template: str, named_tokens: dict[str, str]) -> Any:
    """A byte-level BPE with a few hundred tokens; every usual spelling of yes and no is a single token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    # Each spelling of the answers stands alone often enough to be merged completely.
    tokenizer.train_from_iterator([*SENTENCES, *(word for word in ANSWER_WORDS for _ in range(50))], trainer)
    names = dict.fromkeys([PAD_TOKEN, *special_tokens])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=special_tokens[1],
        extra_special_tokens=named_tokens,
    )
    fast.chat_template = chat_template
    return fast


def _internvl(folder: Path) -> None:
    names = {
        "start_image_token": internvl.IMAGE_START_TOKEN,
        "end_image_token": internvl.IMAGE_END_TOKEN,
        "context_image_token": internvl.IMAGE_TOKEN,
        "video_token": "<video>",
    }
    tokenizer = tiny_tokenizer((*internvl.SPECIAL_TOKENS, "<video>"), internvl.CHAT_TEMPLATE, names)
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": [32, 32],
            "patch_size": [8, 8],
        },
        text_config={"model_type": "qwen2", **_text_config(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids(internvl.IMAGE_TOKEN),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    preprocessor = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "crop_to_patches": False,
    }
    _save(InternVLForConditionalGeneration(config), tokenizer, preprocessor, folder)


def _qwen_tokenizer(chat_template: str) -> Any:
    return tiny_tokenizer((*qwen_patches.SPECIAL_TOKENS, "<|video_pad|>"), chat_template, {})


def _qwen_tokens(tokenizer: Any) -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _qwen2_5_vl(folder: Path) -> None:
    tokenizer = _qwen_tokenizer(qwen2_5_vl.CHAT_TEMPLATE)
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 48,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        text_config={
            **_text_config(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]},
        },
        **_qwen_tokens(tokenizer),
    )
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 8,
        "min_pixels": 32 * 32,
        "max_pixels": 64 * 64,
    }
    _save(Qwen2_5_VLForConditionalGeneration(config), tokenizer, preprocessor, folder)


def _qwen3_vl(folder: Path) -> None:
    tokenizer = _qwen_tokenizer(qwen3_vl.CHAT_TEMPLATE)
    config = Qwen3VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 48,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        text_config={
            **_text_config(tokenizer),
            "head_dim": 12,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 2, 2],
                "mrope_interleaved": True,
            },
        },
        **_qwen_tokens(tokenizer),
    )
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 8,
        "size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 64},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    _save(Qwen3VLForConditionalGeneration(config), tokenizer, preprocessor, folder)


def _smolvlm(folder: Path) -> None:
    tiles = tuple(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4))
    tokenizer = tiny_tokenizer((*smolvlm.SPECIAL_TOKENS, *tiles), smolvlm.CHAT_TEMPLATE, {})
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config={"model_type": "llama", **_text_config(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids(smolvlm.IMAGE_TOKEN),
        scale_factor=2,
    )
    preprocessor = {
        "image_processor_type": "SmolVLMImageProcessor",
        "size": {"longest_edge": 64},
        "max_image_size": {"longest_edge": 32},
        "do_image_splitting": True,
    }
    _save(SmolVLMForConditionalGeneration(config), tokenizer, preprocessor, folder)


def _text_config(tokenizer: Any) -> dict[str, Any]:
    return {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.pad_token_id,
    }


def _save(model: Any, tokenizer: Any, preprocessor: dict[str, Any], folder: Path) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh position embeddings are zero, which would hide mistakes in the order of patches.
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2), encoding="utf-8")


_BUILDERS: dict[str, Callable[[Path], None]] = {
    "internvl": _internvl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "smolvlm": _smolvlm,
}


def save_tiny_model(family: str, folder: str | Path, seed: int = 0) -> Path:
    """Write a tiny model of a family to a folder in hub layout, the same for the same seed."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _BUILDERS[family](target)
    return target
