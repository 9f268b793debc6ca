"""What was computed of images and shared beginnings, kept from one call to the next; bounded in bytes.

It is forgotten when a weight changes.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Value = TypeVar("Value")

_CPU_BYTES = 256 * 2**20
_GPU_BYTES = 4 * 2**30
_GPU_BYTES_BESIDE_TRAINING = 2**30
_GPU_SHARE = 16  # one part in so many of a GPU's memory: on a small one, what is kept must not crowd out the work
_SAMPLED_ELEMENTS = 32


@dataclass(slots=True)
class KeptCounts:
    """How often something was found, and how often not, since the model was loaded."""

    found: int = 0
    missed: int = 0


class KeptStates(Generic[Value]):
    """The most recently used values of a model.

    Args:
        module: Whose weights the values depend on.
        size_of: Bytes of a value.
        max_bytes: Of all values; larger ones are not kept. None for 256 MiB, or on a GPU for 4 GiB or a sixteenth of
            its memory, whichever is less.
    """

    def __init__(self, module: nn.Module, size_of: Callable[[Value], int], max_bytes: int | None = None) -> None:
        self._module = module
        self._size_of = size_of
        self.max_bytes = max_bytes
        self.counts = KeptCounts()
        self._bytes = 0
        self._known: OrderedDict[bytes, Value] = OrderedDict()
        self._lock = Lock()

    def get(self, key: bytes) -> Value | None:
        """The value, if it is still there."""
        with self._lock:
            found = self._known.get(key)
            if found is None:
                self.counts.missed += 1
                return None
            self.counts.found += 1
            self._known.move_to_end(key)
            return found

    def keep(self, key: bytes, value: Value) -> None:
        """Keep a value, and let go of those that were not used for longest."""
        size, limit = self._size_of(value), self._limit()
        with self._lock:
            if size > limit or key in self._known:
                return
            self._known[key] = value
            self._bytes += size
            while self._bytes > limit:
                _, oldest = self._known.popitem(last=False)
                self._bytes -= self._size_of(oldest)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()
            self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Held now."""
        return self._bytes

    def _limit(self) -> int:
        if self.max_bytes is not None:
            return self.max_bytes
        device = next(self._module.parameters()).device
        if device.type != "cuda":
            return _CPU_BYTES
        return bytes_on_gpu(torch.cuda.get_device_properties(device).total_memory)


def bytes_on_gpu(total: int) -> int:
    """How much is kept on a GPU with so many bytes of memory."""
    return min(_GPU_BYTES, total // _GPU_SHARE)


def bytes_beside_training(gpu_bytes: int | None) -> int:
    """How much is kept of each kind by a model that judges what another learns: there is little to find again.

    A step's references come again after an epoch, when they have long given way; those of an evaluation fit.

    Args:
        gpu_bytes: Memory of the GPU; None for a model on the CPU.
    """
    return _CPU_BYTES if gpu_bytes is None else min(_GPU_BYTES_BESIDE_TRAINING, bytes_on_gpu(gpu_bytes))


class WeightWatch:
    """Notices when a model's weights have changed, or the precision that it computes in.

    PyTorch's own count of changes is not enough: fused optimizers do not keep it. A few elements of every weight are
    compared as well, which no step of an optimizer leaves all alone.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._known: Any = None
        self._sample: Tensor | None = None

    def has_changed(self) -> bool:
        """Since it was asked last; true the first time."""
        weights = list(self._module.parameters())
        device = weights[0].device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        state = (precision, tuple((one.data_ptr(), one.dtype, one._version) for one in weights))
        sample = torch.cat([_sample(one).to(weights[0].device) for one in weights])
        is_known = self._sample is not None and state == self._known and torch.equal(sample, self._sample)
        self._known, self._sample = state, sample
        return not is_known


def _sample(weight: Tensor) -> Tensor:
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // _SAMPLED_ELEMENTS)].float()


@contextmanager
def nothing_kept(*states: KeptStates[Value]) -> Iterator[None]:
    """Keep nothing inside, and use nothing that was kept before."""
    limits = [one.max_bytes for one in states]
    for one in states:
        one.clear()
        one.max_bytes = 0
    try:
        yield
    finally:
        for one, limit in zip(states, limits, strict=True):
            one.max_bytes = limit
