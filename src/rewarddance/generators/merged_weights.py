"""Weights as an ordinary checkpoint would hold them: without the layers that LoRA wraps around the network's own."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

_BASE, _LORA = ".base_layer.", "lora_"
_NOTABLE_ROUNDING = 0.05

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Merged:
    """A network with its adapters added to its weights.

    Attributes:
        network: A plain model of its class.
        rounding: Norm of what the weights' precision lost of the adapters' update, over the norm of the update, over
            all layers: 0 for an exact sum, about 1 when nothing is left of it. None where there was nothing to add.
    """

    network: Any
    rounding: float | None


def network_dtype(network: nn.Module) -> torch.dtype:
    """Precision of the network's own weights; adapters may have more, and what its class always keeps in float32."""
    exact = tuple(getattr(network, "_keep_in_fp32_modules", None) or ())
    own = [(name, value.dtype) for name, value in network.named_parameters() if _LORA not in name]
    return next((dtype for name, dtype in own if not any(part in name for part in exact)), own[0][1])


def merged_network(network: Any) -> Any:
    """The network of `merged`."""
    return merged(network).network


def merged(network: Any, device: torch.device | None = None) -> Merged:
    """A copy that computes what the network computes now, up to the precision of its weights.

    The network is left as it is: adding an adapter and taking it away again would change the last bits of weights.
    Weights without an adapter are shared with the copy. A rounding of more than 5 % is logged.

    Args:
        network: A diffusers model, perhaps with LoRA layers; adapters that are switched off are left out.
        device: Where the changed weights go, one layer after the other; None for where they are. A copy that is only to
            be written needs no second place on a GPU.
    """
    layers: dict[str, Any] = {name: layer for name, layer in network.named_modules() if isinstance(layer, LoraLayer)}
    if not layers:
        return Merged(network, None)
    own = {name: value for name, value in network.state_dict().items() if _LORA not in name}
    weights = {name.replace(_BASE, "."): value for name, value in own.items()}
    rounding = _add_adapters(weights, layers, device)
    with init_empty_weights():
        copy = type(network).from_config(network.config)
    copy.load_state_dict(weights, strict=True, assign=True)
    if rounding is not None and rounding > _NOTABLE_ROUNDING:
        precision = str(network_dtype(network)).removeprefix("torch.")
        _log.warning(
            "rounding to %s took %.0f%% of the adapters' update from the saved generator; the run's adapter/ is exact: "
            "give the base with --generator-adapter, or load it there with diffusers' load_lora_weights",
            precision,
            100 * rounding,
        )
    return Merged(copy, rounding)


@torch.no_grad()
def _add_adapters(weights: dict[str, Tensor], layers: dict[str, Any], device: torch.device | None) -> float | None:
    """Add updates to weights, in place of them; the relative rounding of all."""
    lost, whole = 0.0, 0.0
    for name, layer in layers.items():
        if layer.disable_adapters:
            continue
        key = f"{name}.weight"
        change = sum(
            layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters if adapter in layer.scaling
        )
        before = weights[key].float()
        after = (before + change).to(weights[key].dtype)
        lost += float((after.float() - before - change).square().sum())
        weights[key] = after if device is None else after.to(device)
        whole += float(torch.as_tensor(change).square().sum())
    return (lost / whole) ** 0.5 if whole else None
