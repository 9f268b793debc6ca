"""A process that does not outlive the one that started it."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Watch the process that started this one through `multiprocessing`, and end with it, however it ends.

    A process that is killed cannot tell its children, and they would go on working: holding a device, or writing into
    the folder of a run that has been started anew. It ends at once even if it is busy.
    """
    threading.Thread(target=_wait_and_end, name="parent watch", daemon=True).start()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
