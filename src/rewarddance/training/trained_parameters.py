"""Which parameters learn, and in which precision they are kept.

Whatever learns is kept in float32: an AdamW update is often smaller than half a bfloat16 step of the weight it
changes, and is then lost without a trace. What is frozen is kept in the precision of the forward pass.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from rewarddance.config.training import LoraConfig, ModelConfig
from rewarddance.core.errors import UsageError
from rewarddance.core.seeding import derive_seed

_VISION_TOWERS = ("vision_tower", "visual", "vision_model")
_PROJECTORS = ("merger", "deepstack_merger_list")
"""The Qwen families keep the projector, which goes on learning, inside the vision tower."""

_WEIGHT_DECAY_DIMENSIONS = 2


class Adapters:
    """Low-rank adapters inside a language model, which keeps its class and its place.

    Source:
        Hu et al., arXiv:2106.09685.
    """

    def __init__(self, model: nn.Module, settings: LoraConfig, seed: int) -> None:
        """Put adapters into every target layer outside the vision tower and freeze all else in `model`.

        Raises:
            UsageError: No layer has one of the target names, or the rank is larger than any.
        """
        torch.manual_seed(derive_seed(seed, "adapters"))
        names = "|".join(re.escape(name) for name in settings.target_modules)
        towers = "|".join(_VISION_TOWERS)
        pattern = rf"(?!(?:.*\.)?(?:{towers})\.)(?:.*\.)?(?:{names})"
        layers = [(name, layer) for name, layer in model.named_modules() if re.fullmatch(pattern, name)]
        if not layers:
            raise UsageError(
                f"model.lora.target_modules {list(settings.target_modules)} name no layer of the language model; "
                "take the names of its linear layers"
            )
        sides = {name: tuple(layer.weight.shape) for name, layer in layers if isinstance(layer, nn.Linear)}
        if sides:
            refuse_large_rank(settings.rank, sides, "model.lora.rank")
        lora = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # declared int, used as a float
            lora_dropout=settings.dropout,
            target_modules=pattern,
        )
        with warnings.catch_warnings():
            # peft asks transformers for a property by its old name.
            warnings.filterwarnings(
                "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
            )
            self._wrapper: Any = peft.get_peft_model(model, lora)

    def save(self, folder: Path) -> None:
        """Write the adapters alone, in float32, in peft's layout."""
        self._wrapper.save_pretrained(folder, safe_serialization=True)

    def merge(self) -> None:
        """Add the adapters to the base weights, in the base's precision, and take them out of the model."""
        inner = self._wrapper.merge_and_unload()
        if hasattr(inner, "peft_config"):
            del inner.peft_config


def refuse_large_rank(rank: int, layers: Mapping[str, tuple[int, ...]], key: str) -> None:
    """Stop at a rank that no matrix can have.

    Args:
        rank: Of the adapters.
        layers: The two sides of every matrix that gets one, by name.
        key: Of the rank in the config.

    Raises:
        UsageError: It is larger than the smaller side of the largest of them.
    """
    name, sides = max(layers.items(), key=lambda layer: min(layer[1]))
    if rank > min(sides):
        raise UsageError(
            f"{key} is {rank:,}, and the largest layer with an adapter, {name}, is {sides[0]:,} by {sides[1]:,}; "
            f"take {min(sides):,} at most, usually far less"
        )


def freeze_vision(model: nn.Module) -> None:
    """Let the vision tower keep its weights; the projector behind it goes on learning.

    Raises:
        UsageError: The model has no part that is known as a vision tower.
    """
    frozen = 0
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if any(part in _VISION_TOWERS for part in parts) and not any(part in _PROJECTORS for part in parts):
            parameter.requires_grad_(False)
            frozen += 1
    if not frozen:
        raise UsageError("model.freeze_vision is set, but the model has no vision tower; set it to false")


def enable_gradient_checkpointing(model: Any) -> None:
    """Compute activations again in the backward pass, layer by layer."""
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def set_precision(module: nn.Module, compute: torch.dtype) -> None:
    """Keep learning parameters in float32 and frozen ones in the precision of the forward pass."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else compute)


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Precision of the forward pass: `auto` is bfloat16 on a GPU that has it, and float32 elsewhere."""
    if precision == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bfloat16 else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def select_trained_parameters(model: nn.Module, settings: ModelConfig, seed: int) -> Adapters | None:
    """Apply the config's choice of what learns.

    Args:
        model: The vision-language model inside.
        settings: Full training or adapters, frozen vision tower, gradient checkpointing.
        seed: The run's seed; decides the adapters' first values.

    Returns:
        The adapters, if there are any.
    """
    adapters = None if settings.lora is None else Adapters(model, settings.lora, seed)
    if settings.freeze_vision:
        freeze_vision(model)
    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return adapters


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Learning parameters in two groups: matrices, which decay, and vectors (biases, norms), which do not."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in learning if parameter.ndim >= _WEIGHT_DECAY_DIMENSIONS]
    vectors = [parameter for parameter in learning if parameter.ndim < _WEIGHT_DECAY_DIMENSIONS]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
