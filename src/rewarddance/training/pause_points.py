"""Named places where a run can be made to stand still, so that a test can kill it exactly there.

A kill by the clock proves little: it nearly always lands between two saves. With `REWARDDANCE_PAUSE_AT` set to
`NAME` or `NAME#COUNT`, the process stops itself (SIGSTOP) the COUNT-th time it gets to that place, after writing
`NAME` to the file named by `REWARDDANCE_PAUSE_MARKER`, if any. Unset, a point costs one look at the environment.
"""

import os
import signal
from collections import Counter
from pathlib import Path

PAUSE_VARIABLE = "REWARDDANCE_PAUSE_AT"
MARKER_VARIABLE = "REWARDDANCE_PAUSE_MARKER"

_seen: Counter[str] = Counter()


def reached(name: str) -> None:
    """Stand still here if the environment asks for it; continue on SIGCONT.

    Args:
        name: `part:place`, such as `checkpoint:manifest-written`.
    """
    wanted = os.environ.get(PAUSE_VARIABLE)
    if wanted is None:
        return
    _seen[name] += 1
    wanted_name, _, count = wanted.partition("#")
    if name != wanted_name or _seen[name] != int(count or 1):
        return
    if marker := os.environ.get(MARKER_VARIABLE):
        Path(marker).write_text(name, encoding="utf-8")
    os.kill(os.getpid(), signal.SIGSTOP)
