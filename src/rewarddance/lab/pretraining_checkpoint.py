"""Where a pretraining run stands, in one safetensors file that replaces the one before it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from rewarddance.core.errors import CheckpointError, UsageError

_NAME = "checkpoint.safetensors"


def write_pretraining(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    step: int,
    settings: Mapping[str, Any],
) -> None:
    """Write every parameter of the modules, the optimizer's state, the number of steps made, and by which settings.

    Raises:
        CheckpointError: The disk is full or cannot be written to. The checkpoint before is as it was.
    """
    state = {f"{owner}.{name}": value for owner, module in modules.items() for name, value in module.named_parameters()}
    slots = optimizer.state_dict()["state"]
    state |= {f"optimizer.{index}.{name}": value for index, slot in slots.items() for name, value in slot.items()}
    tensors = {name: value.detach().contiguous() for name, value in state.items()}
    staged = folder / "checkpoint.tmp"
    try:
        save_file(tensors, staged, {"step": str(step), "settings": json.dumps(settings)})
        staged.replace(folder / _NAME)
    except (OSError, SafetensorError) as error:
        staged.unlink(missing_ok=True)
        raise CheckpointError(
            f"checkpoint of optimizer step {step} could not be written to {folder} ({error}); "
            "an earlier one is intact: make room and run the command again"
        ) from error


def read_pretraining(
    folder: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> int:
    """Put everything back; returns the number of steps made, 0 if there is nothing yet.

    Raises:
        CheckpointError: The file cannot be read.
        UsageError: It is of a run by other settings.
    """
    path = folder / _NAME
    if not path.exists():
        return 0
    try:
        state = load_file(path)
        with safe_open(path, "pt") as opened:
            written = opened.metadata()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); remove it to begin anew") from error
    now = json.loads(json.dumps(settings))
    before = json.loads(written.get("settings", "{}"))
    if differing := [name for name in sorted({*now, *before}) if now.get(name) != before.get(name)]:
        names = ", ".join(differing)
        raise UsageError(f"{folder} holds a run of other settings ({names}); choose another folder, or remove it")
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
    return int(written["step"])
