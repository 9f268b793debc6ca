"""A GPU whose memory is full ends a run with one line, which says what needs less."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from rewarddance.core.errors import DeviceMemoryError


@contextmanager
def full_memory_in_words(advice: Sequence[str]) -> Iterator[None]:
    """Inside, PyTorch's error becomes ours.

    Args:
        advice: Settings that need less memory and that a run may be resumed with, in words.

    Raises:
        DeviceMemoryError: The memory is full.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"the GPU ran out of memory; --resume with what needs less: {'; '.join(advice)}"
            if advice
            else "the GPU ran out of memory, with the settings that need least; a new run with adapters (lora) or "
            "smaller pictures needs less, or a larger GPU"
        ) from error
