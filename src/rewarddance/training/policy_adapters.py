"""Low-rank adapters inside a velocity network, which keeps its class, its place and its own weights.

Source:
    Hu et al., arXiv:2106.09685.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import peft
import torch
from torch import nn

from rewarddance.config.alignment import GeneratorLoraConfig
from rewarddance.core.errors import UsageError
from rewarddance.core.seeding import derive_seed
from rewarddance.generators.adapter_file import write_adapter
from rewarddance.generators.adapters import fixed_adapters, inject, stage_of, switch_on
from rewarddance.training.trained_parameters import refuse_large_rank

_NAME = "default"
_WITHIN, _BASE = "lora_", ".base_layer"


class PolicyAdapters:
    """Adapters that can be switched off and stored alone."""

    def __init__(self, module: nn.Module, settings: GeneratorLoraConfig, seed: int) -> None:
        """Put an adapter beside every target layer; the network computes what it did before, and all else is frozen.

        Adapters of an earlier stage that were loaded with the generator stay and count: they belong to the network as
        it was before.

        Raises:
            UsageError: No linear layer has one of the target names, or the rank is larger than any.
        """
        names = "|".join(re.escape(name) for name in settings.target_modules)
        pattern = rf"(?:.*\.)?(?:{names})"
        layers = {
            name.removesuffix(_BASE): tuple(layer.weight.shape)
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear) and _WITHIN not in name
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
        self._fixed = fixed_adapters(module)
        self._config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # declared int, used as a float
            target_modules=pattern,
        )
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "adapters"))
            inject(module, self._config, _NAME)
        switch_on(module, (*self._fixed, _NAME))

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """The network as it was before the adapters."""
        switch_on(self._module, self._fixed)
        try:
            yield
        finally:
            switch_on(self._module, (*self._fixed, _NAME))

    def save(self, folder: Path) -> None:
        """Write the adapters alone, those of earlier stages included; see `generators.adapter_file`."""
        stages = [stage_of(self._module, name) for name in (*self._fixed, _NAME)]
        write_adapter(folder, stages, _plain(asdict(self._config)))


def _plain(settings: dict[str, object]) -> dict[str, object]:
    """What JSON can hold of a library's settings."""
    return {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in settings.items()
        if value is None or isinstance(value, bool | int | float | str | list | set)
    }
