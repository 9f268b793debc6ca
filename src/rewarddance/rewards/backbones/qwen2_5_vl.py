"""Qwen2.5-VL: native resolution, patches of 14 pixels merged two by two, 3-D positions."""

from collections.abc import Mapping
from typing import Any

from rewarddance.rewards.backbones.qwen_patches import QwenLayout, qwen_layout

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The family's format, for a folder whose tokenizer has the tokens but no template."""


def qwen2_5_vl_layout(config: Any, settings: Mapping[str, Any]) -> QwenLayout:
    """Read the layout from a model config and a preprocessor config."""
    return qwen_layout(config, settings, processor_class="Qwen2_5_VLProcessor")
