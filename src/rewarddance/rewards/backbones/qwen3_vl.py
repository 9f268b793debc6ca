"""Qwen3-VL: as Qwen2.5-VL, with patches of 16 pixels, no default system turn, and deep-stack vision features."""

from collections.abc import Mapping
from typing import Any

from rewarddance.rewards.backbones.qwen_patches import QwenLayout, qwen_layout

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The family's format, for a folder whose tokenizer has the tokens but no template."""


def qwen3_vl_layout(config: Any, settings: Mapping[str, Any]) -> QwenLayout:
    """Read the layout from a model config and a preprocessor config."""
    return qwen_layout(config, settings, processor_class="Qwen3VLProcessor")
