"""A GPU whose memory is full ends a run with one line, which says what needs less."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from rewarddance.core.errors import DeviceMemoryError


@contextmanager
def full_memory_in_words(advice: Sequence[str]) -> Iterator[None]:
    """Inside, PyTorch's error becomes ours.

    Args:
        advice: Settings that need less memory, in words.

    Raises:
        DeviceMemoryError: The memory is full.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"the GPU ran out of memory; what needs less: {'; '.join(advice) or 'smaller pictures, or a larger GPU'}; "
            "--resume takes another gradient_checkpointing or batch_size, all else needs a new run"
        ) from error
