"""SIGTERM as a request: finish the step, save, and end well. Schedulers send it before they kill."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether the process has been asked to stop."""

    def __init__(self) -> None:
        self.is_made = False

    def make(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: remember it; the loop looks once a step."""
        self.is_made = True


@contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Catch SIGTERM while the block runs; only the main thread can, so elsewhere nothing is caught."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = signal.signal(signal.SIGTERM, request.make)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, previous)
