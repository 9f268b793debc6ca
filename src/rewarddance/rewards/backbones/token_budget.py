"""How many tokens are read at once: enough to keep the device busy, few enough for its memory."""

from pathlib import Path
from typing import Any

import torch

_SHARE_OF_FREE_MEMORY = 0.25
_MOST = {"cuda": 32_768, "cpu": 4_096}
_FEWEST = 1_024
# Of a layer's width: residual, norm, queries, keys, values, gathered keys and values, output.
_WIDTHS_HELD = 12
# Of the inner width: gate, up, their product.
_INNER_WIDTHS_HELD = 3


def token_budget(text_config: Any, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens of one packed row.

    Args:
        text_config: Of the language model.
        device: Whose free memory counts.
        dtype: Of the activations.
    """
    held = _WIDTHS_HELD * text_config.hidden_size + _INNER_WIDTHS_HELD * text_config.intermediate_size
    fitting = int(_SHARE_OF_FREE_MEMORY * free_bytes(device) / (held * dtype.itemsize))
    return min(max(fitting, _FEWEST), _MOST.get(device.type, _MOST["cpu"]))


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on a device, in bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reserved)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return 4 * 2**30
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
