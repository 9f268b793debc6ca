"""Standard output and error of the program: what cannot be shown or is not read never ends in a traceback."""

import io
import os
import select
import sys


def prepare_streams() -> None:
    """Put nothing in place of closed streams, and escapes in place of characters that a stream's encoding lacks.

    A closed stream's descriptor would else go to the next file that is opened, and messages with it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_output_broken() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:
        return False  # no file of the system
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def output_error() -> OSError | None:
    """Why what was printed has not arrived, such as BrokenPipeError where nobody reads it; None if it has.

    After an error nothing more is written to standard output: Python would try again at its end, and complain.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return error
    return None
