"""Adapters of a velocity network on disk: one file that diffusers' `load_lora_weights` reads as well.

The scale of an update is in its weights, and alpha equals the rank, as readers that know of no metadata take for
granted. A policy that was tuned in several stages has an update of each beside its layers. They stand one behind
the other in the same matrices, which is their sum for every reader; the metadata say where one ends and the next
begins, so that they can be computed one by one here, as they were in training.

Source:
    Hu et al., arXiv:2106.09685; names and metadata as in diffusers and peft.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rewarddance.core.errors import ModelError

FILE_NAME = "pytorch_lora_weights.safetensors"

_PREFIX = "transformer."
"""Under which diffusers' pipelines look for adapters of their velocity network (`load_lora_weights`)."""
_METADATA = "lora_adapter_metadata"
_STAGES = "rewarddance_stage_ranks"
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_OTHER_KINDS = ("use_dora", "use_rslora")


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """What one stage of tuning adds to one layer: `up @ down @ inputs`, its scale included.

    Attributes:
        down: From the layer's inputs to the rank.
        up: From the rank to the layer's outputs.
    """

    down: Float[Tensor, "rank inputs"]
    up: Float[Tensor, "outputs rank"]

    @property
    def rank(self) -> int:
        """Of the update."""
        return len(self.down)


Stage = Mapping[str, LowRankUpdate]
"""Updates of one stage of tuning, by the name of their layer."""


def write_adapter(folder: Path, stages: Sequence[Stage], settings: Mapping[str, object]) -> None:
    """Write the updates of all stages, in float32.

    Args:
        folder: Exists.
        stages: In the order in which they were learned; at least one.
        settings: Of the last one's `LoraConfig`, as JSON can hold them; what they say of ranks and scales is replaced.
    """
    names = list(dict.fromkeys(name for stage in stages for name in stage))
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, list[int]] = {}
    for name in names:
        updates = [stage[name] for stage in stages if name in stage]
        tensors[f"{_PREFIX}{name}{_DOWN}"] = torch.cat([one.down.float() for one in updates]).cpu().contiguous()
        tensors[f"{_PREFIX}{name}{_UP}"] = torch.cat([one.up.float() for one in updates], 1).cpu().contiguous()
        ranks[name] = [stage[name].rank if name in stage else 0 for stage in stages]
    told: dict[str, object] = dict(settings) | {"lora_alpha": settings["r"]}
    metadata = {"format": "pt"}
    if len(stages) > 1:
        sums = {name: sum(each) for name, each in ranks.items()}
        told |= {"target_modules": names, "rank_pattern": sums, "alpha_pattern": sums}
        metadata[_STAGES] = json.dumps(ranks, sort_keys=True)
    metadata[_METADATA] = json.dumps({f"{_PREFIX}{key}": value for key, value in told.items()}, sort_keys=True)
    safetensors.torch.save_file(tensors, folder / FILE_NAME, metadata=metadata)


def adapter_file(folder: Path) -> Path:
    """The file of a folder.

    Raises:
        ModelError: There is none.
    """
    path = folder.expanduser() / FILE_NAME
    if not path.is_file():
        raise ModelError(f"{folder} holds no adapter: there is no {FILE_NAME}; give the adapter/ of a run of align")
    return path


def read_adapter(folder: Path) -> list[Stage]:
    """The updates of every stage, in float32; an adapter of another trainer is one stage.

    Raises:
        ModelError: The file is missing, damaged, or no low-rank adapter of a velocity network in peft's layout.
    """
    path = adapter_file(folder)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no mapping
        settings = _settings(metadata)
        layers = sorted({_layer(name, path) for name in tensors})
        ranks = json.loads(metadata[_STAGES]) if _STAGES in metadata else {}
        whole = {layer: _update(layer, tensors, settings) for layer in layers}
        stages = [_cut(whole, ranks, number) for number in range(max(map(len, ranks.values()), default=1))]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        line = " ".join(str(error).split())
        raise ModelError(f"{path} is no adapter that can be read ({line}); copy it again") from error
    if not whole:
        raise ModelError(f"{path} holds no adapter; copy it again")
    return stages


def _settings(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What is told of the scale; nothing means that it is 1."""
    told = json.loads(metadata[_METADATA]) if _METADATA in metadata else {}
    return {name.removeprefix(_PREFIX): value for name, value in told.items()}


def _layer(name: str, path: Path) -> str:
    for end in (_DOWN, _UP):
        if name.startswith(_PREFIX) and name.endswith(end):
            return name.removeprefix(_PREFIX).removesuffix(end)
    raise ModelError(
        f"{path} holds {name}, and only low-rank updates of the velocity network are taken, named "
        f"{_PREFIX}LAYER{_DOWN} and {_PREFIX}LAYER{_UP}"
    )


def _update(layer: str, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> LowRankUpdate:
    down, up = tensors[f"{_PREFIX}{layer}{_DOWN}"], tensors[f"{_PREFIX}{layer}{_UP}"]
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        raise ValueError(f"the two matrices of {layer} do not fit")
    kinds = [name for name in _OTHER_KINDS if settings.get(name)]
    if kinds:
        raise ValueError(f"{kinds[0]} is another kind of adapter")
    patterns = settings.get("alpha_pattern") or {}
    if not patterns.keys() <= {name.removeprefix(_PREFIX).removesuffix(_DOWN) for name in tensors}:
        raise ValueError("its scales are given by patterns, which are not understood here")
    alpha = float(patterns.get(layer, settings.get("lora_alpha", len(down))))
    return LowRankUpdate(down, up * (alpha / len(down)))


def _cut(whole: Stage, ranks: Mapping[str, Sequence[int]], number: int) -> Stage:
    """One of the stages that stand one behind the other."""
    stage: dict[str, LowRankUpdate] = {}
    for name, update in whole.items():
        own = ranks.get(name, [update.rank])
        if sum(own) != update.rank:
            raise ValueError(f"the stages of {name} do not come to its rank")
        if number < len(own) and own[number]:
            first, last = sum(own[:number]), sum(own[: number + 1])
            stage[name] = LowRankUpdate(update.down[first:last], update.up[:, first:last])
    return stage
