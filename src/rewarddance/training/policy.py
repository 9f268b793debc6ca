"""The policy: a generator, what of it learns, and the weights that it is compared with or averaged into.

Whatever learns is kept in float32, because an update is often smaller than half a bfloat16 step of the weight that it
changes. With adapters the reference policy is the network with the adapters switched off; with full training it is a
frozen copy of the weights that the run began with.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rewarddance.config.alignment import GeneratorLoraConfig
from rewarddance.core.errors import CheckpointError
from rewarddance.generators.protocol import Conditions, Generator
from rewarddance.generators.sampling import rows_of
from rewarddance.training.policy_adapters import PolicyAdapters
from rewarddance.training.trained_parameters import compute_dtype

_NOW = "policy"
_SEPARATOR = "/"


class Policy:
    """A generator that is being tuned, in place."""

    def __init__(self, generator: Generator, lora: GeneratorLoraConfig | None, precision: str, seed: int) -> None:
        """Choose what learns and freeze all else.

        Args:
            generator: Changed in place.
            lora: Adapters; None trains every weight of the velocity network.
            precision: Of the forward pass: `auto`, `float32` or `bfloat16`.
            seed: The run's; decides the adapters' first values.

        Raises:
            UsageError: There is no layer for an adapter.
        """
        self.generator = generator
        self._dtype = compute_dtype(precision, generator.device)
        for part in (generator.module, *generator.frozen_modules.values()):
            part.requires_grad_(False)
            # No dropout: a rollout and its replay must compute the same.
            part.eval()
        if lora is None:
            for name, value in generator.module.named_parameters():
                value.requires_grad_("lora_" not in name)  # adapters of an earlier stage stay as they are
        self.adapters = None if lora is None else PolicyAdapters(generator.module, lora, seed)
        self._trained = {name: value for name, value in generator.module.named_parameters() if value.requires_grad}
        for parameter in self._trained.values():
            parameter.data = parameter.data.float()
        self._reference = None if self.adapters is not None else self._copy()
        self._averages: dict[str, dict[str, Tensor]] = {}

    @property
    def module(self) -> nn.Module:
        """The velocity network."""
        return self.generator.module

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.generator.device

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """What learns, by name, in float32."""
        return self._trained

    def velocity(
        self,
        latents: Float[Tensor, "batch ..."],
        sigma: Float[Tensor, " *rows"],
        conditions: Conditions,
        guidance: float | None,
    ) -> Float[Tensor, "batch ..."]:
        """The policy's velocity at one noise level for all rows or one for each, in the run's precision."""
        # One context a call: autocast keeps converted weights until it ends, and `using` changes weights in between.
        with self.precision():
            return self.generator.velocity(latents, rows_of(sigma, latents), conditions, guidance)

    def reference_velocity(
        self,
        latents: Float[Tensor, "batch ..."],
        sigma: Float[Tensor, ""],
        conditions: Conditions,
        guidance: float | None,
    ) -> Float[Tensor, "batch ..."]:
        """The reference policy's velocity at the same place, without gradient."""
        with torch.no_grad(), self.reference():
            return self.velocity(latents.detach(), sigma, conditions, guidance)

    def precision(self) -> AbstractContextManager[Any]:
        """Forward passes inside run in the precision of the run."""
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not torch.float32)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the generator is the reference policy; for passes without gradient."""
        if self.adapters is not None:
            with self.adapters.switched_off():
                yield
        elif self._reference is not None:
            with self._holding(self._reference):
                yield

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Inside, the generator has averaged weights; for passes without gradient.

        Args:
            name: Given to `average` before.
        """
        with self._holding(self._averages[name]):
            yield

    def average(self, name: str) -> None:
        """Begin to keep averaged weights under a name, equal to the policy's; nothing if they are there already."""
        self._averages.setdefault(name, self._copy())

    def update_average(self, name: str, share: float) -> None:
        """Move averaged weights towards the policy.

        Args:
            name: Given to `average` before.
            share: Of the old value that stays, in [0, 1].
        """
        with torch.no_grad():
            for key, value in self._averages[name].items():
                value.lerp_(self._trained[key], 1.0 - share)

    def state(self) -> dict[str, Tensor]:
        """Weights that learn and averaged ones, on the CPU; the frozen ones come from the base generator again."""
        stored: dict[str, Mapping[str, Tensor]] = {_NOW: self._trained, **self._averages}
        return {
            f"{group}{_SEPARATOR}{name}": value.detach().cpu().contiguous()
            for group, weights in stored.items()
            for name, value in weights.items()
        }

    def restore(self, state: Mapping[str, Tensor], with_averages: bool = True) -> None:
        """Put stored weights back in place.

        Args:
            state: From `state`.
            with_averages: Also the averaged ones; otherwise they stay as they are.

        Raises:
            CheckpointError: The generator is not the one that the checkpoint was made from.
        """
        places: dict[str, Mapping[str, Tensor]] = {_NOW: self._trained, **self._averages}
        here = {f"{group}{_SEPARATOR}{name}": value for group, each in places.items() for name, value in each.items()}
        if here.keys() != state.keys() or any(here[name].shape != state[name].shape for name in here):
            raise CheckpointError(
                "the checkpoint belongs to another generator or another choice of trained parameters; "
                "resume with the generator and the config that the run began with"
            )
        with torch.no_grad():
            for name, value in here.items():
                if with_averages or name.startswith(f"{_NOW}{_SEPARATOR}"):
                    value.copy_(state[name])

    def save_adapters(self, folder: Path) -> None:
        """Write the adapters alone; nothing with full training."""
        if self.adapters is not None:
            self.adapters.save(folder)

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._trained.items()}

    @contextmanager
    def _holding(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        # Only the storage changes hands: a graph that was recorded before finds its weights again in the backward pass.
        own = {name: parameter.data for name, parameter in self._trained.items()}
        try:
            for name, parameter in self._trained.items():
                parameter.data = weights[name]
            yield
        finally:
            for name, parameter in self._trained.items():
                parameter.data = own[name]
