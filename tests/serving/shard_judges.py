"""Judges that workers in other processes can load: by the length of a prompt, slow, or deadly."""

import os
import resource
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from rewarddance.core.errors import ModelError
from rewarddance.core.types import Judgement, JudgementRequest, Status
from rewarddance.serving import shards
from rewarddance.serving.manifest import Judge

_lost: list[str] = []


def judge_by_length(
    requests: Sequence[JudgementRequest], seconds: float = 0.0, log: Path | None = None
) -> list[Judgement]:
    """A prompt with "poison" kills the process, "broken" is an error of the machine, and "bad" cannot be read.

    "illegal" is an error after which nothing works in this process any more.
    """
    if log is not None:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {' '.join(request.prompt for request in requests)}\n")
    for request in requests:
        time.sleep(seconds)
        if "poison" in request.prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        if "illegal" in request.prompt or _lost:
            _lost.append(request.prompt)
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if "broken" in request.prompt:
            raise RuntimeError("out of memory at 0x7f00")
    return [
        Judgement(Status.UNREADABLE_MEDIA, message="broken picture")
        if "bad" in request.prompt
        else Judgement(Status.OK, score=1 / len(request.prompt), reward=len(request.prompt) / 3)
        for request in requests
    ]


def load_judge(seconds: float = 0.0, log: Path | None = None) -> Judge:
    return partial(judge_by_length, seconds=seconds, log=log)


def load_gpu_teller(folder: Path) -> Judge:
    """Leaves a note of the GPU that this worker may see."""
    (folder / f"{os.getpid()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    return partial(judge_by_length, seconds=0.05)


def load_on_a_full_disk(room_bytes: int) -> Judge:
    """No file of this process grows beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, resource.RLIM_INFINITY))
    return judge_by_length


def load_dying_before_the_first_row(end: str) -> Judge:
    """Loads, and the process ends when it locks its first journal: by a signal, or by an error of no known kind."""

    def die(*words: object) -> None:
        if end == "signal":
            os.kill(os.getpid(), signal.SIGKILL)
        raise LookupError("lost")

    shards.fcntl.flock = die
    return judge_by_length


def load_nothing() -> Judge:
    raise ModelError("there is no model here")


def die_loading() -> Judge:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
