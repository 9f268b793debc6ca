"""A process that does not outlive the one that started it."""

import multiprocessing
import os
import threading
import time


def end_with_parent(grace_seconds: float = 0.0) -> None:
    """Watch the process that started this one through `multiprocessing`, and end with it, however it ends.

    A process that is killed cannot tell its children, and they would go on working: holding a device, or writing into
    the folder of a run that has been started anew. It ends even if it is busy.

    Args:
        grace_seconds: To wait first; a signal to the whole group lets a run save what it has.
    """
    watch = threading.Thread(target=_wait_and_end, args=(grace_seconds,), name="parent watch", daemon=True)
    watch.start()


def _wait_and_end(grace_seconds: float) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(grace_seconds)
    os._exit(1)
