"""The lab's base models: InternVL-architecture VLMs in three sizes, small enough for two CPU cores.

They are genuine transformers classes with a genuine tokenizer; `pretraining.py` is the recipe of their weights,
which ship with the package in safetensors.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast

from rewarddance.core.errors import UsageError
from rewarddance.lab.world import SIDE

BaseSize = Literal["nano", "micro", "small"]

PATCH = 4
IMAGE_TOKENS = (SIDE // PATCH // 2) ** 2
VOCABULARY = 512
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths and depths of a base model; attention heads are 32 wide, or one of the whole width."""

    vision_width: int
    vision_layers: int
    width: int
    layers: int


SHAPES: dict[BaseSize, Shape] = {
    "nano": Shape(vision_width=48, vision_layers=2, width=64, layers=5),
    "micro": Shape(vision_width=96, vision_layers=3, width=128, layers=6),
    "small": Shape(vision_width=128, vision_layers=3, width=192, layers=6),
}


def lab_base(size: str) -> Path:
    """Folder of a base model that ships with the package.

    Raises:
        UsageError: There is no such size.
    """
    folder = Path(__file__).parent / "weights" / size
    if size not in SHAPES or not folder.is_dir():
        raise UsageError(f"no lab base model named {size!r}; choose one of {', '.join(SHAPES)}")
    return folder


def new_base(size: BaseSize, tokenizer: PreTrainedTokenizerFast, seed: int) -> InternVLForConditionalGeneration:
    """A base model with fresh weights.

    The initialisation is scaled: weights by 1/sqrt(inputs), outputs of residual branches further by
    1/sqrt(2 layers), and full-size sine positions. With the library's 0.02 throughout, binding a colour to a shape
    takes several times as long to be learned.
    """
    shape = SHAPES[size]
    torch.manual_seed(seed)
    config = InternVLConfig(
        vision_config={
            "hidden_size": shape.vision_width,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.vision_width // 32,
            "intermediate_size": 2 * shape.vision_width,
            "image_size": SIDE,
            "patch_size": PATCH,
            "layer_scale_init_value": 1.0,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.width // 32,
            "num_key_value_heads": shape.width // 32,
            "intermediate_size": 2 * shape.width,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": _token_id(tokenizer, "<|im_end|>"),
        },
        image_token_id=_token_id(tokenizer, "<IMG_CONTEXT>"),
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config)
    _initialise(model, shape)
    return model


def new_tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 512 tokens trained on the world's own sentences, with the chat format of InternVL."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ["yes", "no", "Yes", "No", " yes", " no", " Yes", " No"] * 1000
    tokenizer.train_from_iterator([*words, *corpus], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_base(model: nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path, recipe: dict[str, Any]) -> None:
    """Write a base model as a Hugging Face folder, with the record of how it was made."""
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "crop_to_patches": False,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "max_patches": 1,
        "min_patches": 1,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": SIDE, "width": SIDE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    (folder / "pretraining.json").write_text(json.dumps(recipe, indent=2) + "\n")


def _token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)
    return number


@torch.no_grad()
def _initialise(model: InternVLForConditionalGeneration, shape: Shape) -> None:
    residual_outputs = ("projection_layer.weight", "fc2.weight", "o_proj.weight", "down_proj.weight")
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name:
            parameter.normal_(0, 0.5)  # small ones drown in what the first layers write beside them
        elif parameter.ndim >= 2 and "position_embeddings" not in name and "token" not in name:
            layers = shape.vision_layers if "vision_tower" in name else shape.layers
            scale = 1 / math.sqrt(2 * layers) if name.endswith(residual_outputs) else 1.0
            parameter.normal_(0, scale / math.sqrt(parameter[0].numel()))
    table = model.model.vision_tower.embeddings.position_embeddings
    table[0, 1:] = _sine_positions(SIDE // PATCH, shape.vision_width)


def _sine_positions(side: int, width: int) -> torch.Tensor:
    """Two-dimensional sine and cosine positions, shape (side * side, width), entries of size about 0.5."""
    rates = math.pi * 2.0 ** torch.arange(width // 4).div(width / 16)  # 1 to 16 half waves over the picture
    rows, columns = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    parts = [wave(axis.reshape(-1, 1) * rates) for axis in (rows, columns) for wave in (torch.sin, torch.cos)]
    return 0.5 * torch.cat(parts, dim=-1)
