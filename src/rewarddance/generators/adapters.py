"""Adapters that stay beside the layers of a velocity network, in float32, and are not learned any more.

Adding them to weights in bfloat16 would round part of a small update away. Beside the layers they compute what they
did at the end of training, and so does a second stage of tuning that begins with them.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from rewarddance.core.errors import ModelError
from rewarddance.generators.adapter_file import LowRankUpdate, Stage, adapter_file, read_adapter
from rewarddance.generators.merged_weights import network_dtype

_FIXED = "stage_"


def load_adapters(network: nn.Module, folder: Path) -> None:
    """Put the adapters of a folder beside the layers of a network.

    Args:
        network: Of the generator that they were trained on; changed in place.
        folder: `adapter/` of a run of alignment, or any that diffusers' `load_lora_weights` reads.

    Raises:
        ModelError: The file is missing or damaged, or belongs to another network.
    """
    stages = read_adapter(folder)
    layers = dict(network.named_modules())
    for stage in stages:
        for name, update in stage.items():
            _require_place(layers.get(name), name, update, adapter_file(folder))
    for number, stage in enumerate(stages):
        _put(network, stage, f"{_FIXED}{number}")
    switch_on(network, fixed_adapters(network))


def fixed_adapters(network: nn.Module) -> tuple[str, ...]:
    """Names of the adapters that were loaded, in the order in which they were learned."""
    return tuple(name for name in getattr(network, "peft_config", {}) if name.startswith(_FIXED))


def adapted_layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Layers with adapters, by the names that they have without."""
    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, LoraLayer))


def inject(network: nn.Module, config: peft.LoraConfig, name: str, with_values: bool = True) -> None:
    """Put one more adapter beside the layers that a config names; without values it has no storage yet."""
    with warnings.catch_warnings():
        # That there are other adapters is no accident here.
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        peft.inject_adapter_in_model(config, network, name, low_cpu_mem_usage=not with_values)


def switch_on(network: nn.Module, names: Sequence[str]) -> None:
    """Let exactly these adapters count; what learns is left as it is."""
    for _, layer in adapted_layers(network):
        # The library's own switch also touches `requires_grad`, which the optimizer's parameters must keep.
        layer._active_adapter = [name for name in names if name in layer.lora_A]


def stage_of(network: nn.Module, name: str) -> Stage:
    """The updates of one adapter, its scale included."""
    return {
        place: LowRankUpdate(
            layer.lora_A[name].weight.detach().float(),
            layer.lora_B[name].weight.detach().float() * layer.scaling[name],
        )
        for place, layer in adapted_layers(network)
        if name in layer.lora_A
    }


def as_trained(network: nn.Module) -> AbstractContextManager[Any]:
    """Inside, a network of lower precision with loaded adapters computes as the policy did: under autocast.

    Without autocast the adapters would work in float32 beside layers that do not; nothing is changed for a network
    without them, or in float32.
    """
    if not fixed_adapters(network):
        return nullcontext()
    dtype = network_dtype(network)
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(next(network.parameters()).device.type, dtype)


def _require_place(layer: nn.Module | None, name: str, update: LowRankUpdate, path: Path) -> None:
    sides = tuple(layer.weight.shape) if isinstance(layer, nn.Linear) else None
    if sides == (len(update.up), update.down.shape[1]):
        return
    found = "has no such linear layer" if sides is None else f"has {sides[0]:,} by {sides[1]:,} there"
    raise ModelError(
        f"{path} changes the layer {name}, {len(update.up):,} by {update.down.shape[1]:,}, and the generator {found}; "
        "give the generator that the adapter was trained on"
    )


def _put(network: nn.Module, stage: Stage, name: str) -> None:
    pattern = "|".join(re.escape(place) for place in stage)
    ranks = {re.escape(place): update.rank for place, update in stage.items()}
    config = peft.LoraConfig(r=1, target_modules=pattern, rank_pattern=ranks)
    inject(network, config, name, with_values=False)
    layers = dict(adapted_layers(network))
    for place, update in stage.items():
        layer = layers[place]
        device = layer.get_base_layer().weight.device
        for matrix, value in ((layer.lora_A[name], update.down), (layer.lora_B[name], update.up)):
            matrix.weight = nn.Parameter(value.to(device), requires_grad=False)
        layer.scaling[name] = 1.0
