"""Where a pretraining run stands, in one safetensors file that replaces the one before it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

_NAME = "checkpoint.safetensors"


def write_pretraining(
    folder: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Write every parameter of the modules, the optimizer's state and the number of steps made."""
    state = {f"{owner}.{name}": value for owner, module in modules.items() for name, value in module.named_parameters()}
    slots = optimizer.state_dict()["state"]
    state |= {f"optimizer.{index}.{name}": value for index, slot in slots.items() for name, value in slot.items()}
    tensors = {name: value.detach().contiguous() for name, value in state.items()}
    staged = folder / "checkpoint.tmp"
    save_file(tensors, staged, {"step": str(step)})
    staged.replace(folder / _NAME)


def read_pretraining(folder: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Put everything back; returns the number of steps made, 0 if there is nothing yet."""
    path = folder / _NAME
    if not path.exists():
        return 0
    state = load_file(path)
    with torch.no_grad():
        for owner, module in modules.items():
            for name, parameter in module.named_parameters():
                parameter.copy_(state[f"{owner}.{name}"])
    packed = optimizer.state_dict()
    for name, value in state.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".")
            packed["state"].setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict(packed)
    with safe_open(path, "pt") as opened:
        return int(opened.metadata()["step"])
