"""Low-rank adapters inside a velocity network, which keeps its class, its place and its own weights.

Source:
    Hu et al., arXiv:2106.09685.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import peft
import safetensors.torch
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from rewarddance.config.alignment import GeneratorLoraConfig
from rewarddance.core.errors import UsageError
from rewarddance.core.seeding import derive_seed
from rewarddance.training.trained_parameters import refuse_large_rank

_NAME = "default"
_FILE = "pytorch_lora_weights.safetensors"
_METADATA = "lora_adapter_metadata"
_PREFIX = "transformer"
"""Under which diffusers' pipelines look for adapters of their velocity network (`load_lora_weights`)."""


class PolicyAdapters:
    """Adapters that can be switched off and stored alone."""

    def __init__(self, module: nn.Module, settings: GeneratorLoraConfig, seed: int) -> None:
        """Put an adapter beside every target layer; the network computes what it did before, and all else is frozen.

        Raises:
            UsageError: No linear layer has one of the target names, or the rank is larger than any.
        """
        names = "|".join(re.escape(name) for name in settings.target_modules)
        pattern = rf"(?:.*\.)?(?:{names})"
        layers = {
            name: tuple(layer.weight.shape) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)
        }
        targets = {name: sides for name, sides in layers.items() if re.fullmatch(pattern, name)}
        if not targets:
            last_words = sorted({name.rpartition(".")[2] for name in layers if not name.rpartition(".")[2].isdigit()})
            raise UsageError(
                f"generator.lora.target_modules {list(settings.target_modules)} name no layer of the velocity "
                f"network; its linear layers are named {', '.join(last_words)}"
            )
        refuse_large_rank(settings.rank, targets, "generator.lora.rank")
        self._module = module
        self._config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # declared int, used as a float
            target_modules=pattern,
        )
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "adapters"))
            peft.inject_adapter_in_model(self._config, module, _NAME)

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """The network as it was before the adapters."""
        # The library's own switch also touches `requires_grad`, which the optimizer's parameters must keep.
        layers = list(self._layers())
        for _, layer in layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for _, layer in layers:
                layer._disable_adapters = False

    def save(self, folder: Path) -> None:
        """Write the adapters alone, in float32, as diffusers' `load_lora_weights` reads them.

        Their scale is in the weights, and alpha equals the rank, as readers that know of no metadata take for granted.
        """
        scale = self._config.lora_alpha / self._config.r
        state = peft.get_peft_model_state_dict(self._module, adapter_name=_NAME)
        tensors = {
            f"{_PREFIX}.{name}": (value.float() * (scale if "lora_B" in name else 1.0)).cpu().contiguous()
            for name, value in state.items()
        }
        settings = _plain(asdict(self._config)) | {"lora_alpha": self._config.r}
        told = {f"{_PREFIX}.{key}": value for key, value in settings.items()}
        metadata = {"format": "pt", _METADATA: json.dumps(told, sort_keys=True)}
        safetensors.torch.save_file(tensors, folder / _FILE, metadata=metadata)

    def _layers(self) -> Iterator[tuple[str, BaseTunerLayer]]:
        for name, layer in self._module.named_modules():
            if isinstance(layer, BaseTunerLayer):
                yield name, layer


def _plain(settings: dict[str, object]) -> dict[str, object]:
    """What JSON can hold of a library's settings."""
    return {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in settings.items()
        if value is None or isinstance(value, bool | int | float | str | list | set)
    }
