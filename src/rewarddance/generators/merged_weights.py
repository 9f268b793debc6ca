"""Weights as an ordinary checkpoint would hold them: without the layers that LoRA wraps around the network's own."""

from typing import Any

import torch
from accelerate import init_empty_weights
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

_BASE, _LORA = ".base_layer.", "lora_"


def network_dtype(network: nn.Module) -> torch.dtype:
    """Precision of the network's own weights; adapters may have more."""
    own = (value.dtype for name, value in network.named_parameters() if _LORA not in name)
    return next(own)


def merged_network(network: Any) -> Any:
    """A copy that computes what the network computes now, as a plain model of its class.

    The network is left as it is: adding an adapter and taking it away again would change the last bits of weights.
    Weights without an adapter are shared with the copy.

    Args:
        network: A diffusers model, perhaps with LoRA layers; adapters that are switched off are left out.
    """
    weights = _merged_weights(network)
    if weights is None:
        return network
    with init_empty_weights():
        copy = type(network).from_config(network.config)
    copy.load_state_dict(weights, strict=True, assign=True)
    return copy


@torch.no_grad()
def _merged_weights(network: nn.Module) -> dict[str, Tensor] | None:
    layers: dict[str, Any] = {name: layer for name, layer in network.named_modules() if isinstance(layer, LoraLayer)}
    if not layers:
        return None
    own = {name: value for name, value in network.state_dict().items() if _LORA not in name}
    weights = {name.replace(_BASE, "."): value for name, value in own.items()}
    for name, layer in layers.items():
        if layer.disable_adapters:
            continue
        key = f"{name}.weight"
        change = sum(
            layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters if adapter in layer.scaling
        )
        weights[key] = (weights[key].float() + change).to(weights[key].dtype)
    return weights
