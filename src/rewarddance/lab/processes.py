"""Runs of a study, each in a process of its own, which ends with the study."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

from rewarddance.core.parent_process import end_with_parent

_GRACE_SECONDS = 5.0
"""For a checkpoint, when a signal has reached the whole group."""

Made = TypeVar("Made")
Run = TypeVar("Run")


def make_all(
    make: Callable[[Run], Made], runs: Sequence[Run], jobs: int, on_done: Callable[[int], None] | None = None
) -> list[Made]:
    """What `make` gives for each run, in their order.

    Args:
        make: Can be pickled.
        runs: What to make.
        jobs: Runs at a time.
        on_done: Called with the number of finished runs.
    """
    start = partial(end_with_parent, grace_seconds=_GRACE_SECONDS)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=start) as pool:
        futures = [pool.submit(make, run) for run in runs]
        for done, _ in enumerate(as_completed(futures), start=1):
            if on_done is not None:
                on_done(done)
        return [future.result() for future in futures]
