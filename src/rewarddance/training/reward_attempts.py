"""Asking a reward with a deadline and a few tries, and saying in one line why it gave no usable numbers.

Any reward may fail: a service is away, a kernel fails, a judge says NaN. What comes of it is a
`RewardError`, never a number: a zero in one sample's place would poison the whole group that it is compared with.

A call with a deadline runs in a thread of its own. Python cannot stop a thread, so one that hangs is left behind: it
keeps its memory until the process ends (it does not keep the process from ending), its answer is thrown away when it
comes late, and the next try may run beside it. A scorer that hangs inside C code while holding the interpreter's lock
stops the deadline's clock as well; such a scorer belongs into a process of its own, behind a client with a timeout.
Hooks on saved tensors do not reach the thread: `torch.utils.checkpoint` around a reward saves memory only without a
deadline (checkpointing inside the reward model works either way).
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.errors import RewardDanceError, RewardError, UsageError

_LONGEST_CAUSE = 200
_LONGEST_ADVICE = 600  # our own errors say at their end what to do


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a reward is asked before the run stops.

    Attributes:
        deadline_seconds: For one try; None asks in the caller's thread and waits for ever.
        tries: In all, the first included.
        backoff_seconds: Pause before the second try; doubled before each further one.
    """

    deadline_seconds: float | None = 600.0
    tries: int = 3
    backoff_seconds: float = 1.0

    def __post_init__(self) -> None:
        has_time = self.deadline_seconds is None or self.deadline_seconds > 0
        if not (has_time and self.tries >= 1 and 0 <= self.backoff_seconds < math.inf):
            raise UsageError("patience needs a deadline above 0 (or none), at least one try and a backoff of 0 or more")


class _Unusable(Exception):  # noqa: N818 - never leaves this file
    """Why one try gave no usable numbers."""


def ask_patiently(
    name: str, ask: Callable[[], object], prompts: Sequence[str], patience: Patience
) -> Float[Tensor, " batch"]:
    """One finite number a sample, with the gradient that they came with.

    Args:
        name: Of the reward, for the message.
        ask: Called once a try; may raise anything.
        prompts: One a sample; named when their number is not finite.
        patience: Deadline and tries.

    Raises:
        RewardError: No try gave as many finite numbers as samples. What a retry cannot mend (a prompt too long, a
            missing reference image) is not tried again.
        torch.OutOfMemoryError: The GPU is full, and would be again: the caller's to mend, and not tried again.
    """
    cause = ""
    for tried in range(1, patience.tries + 1):
        if tried > 1:
            time.sleep(patience.backoff_seconds * 2 ** (tried - 2))
        try:
            return _checked(_within(ask, patience.deadline_seconds), prompts)
        except _Unusable as problem:
            cause = str(problem)
        except RewardDanceError as error:
            raise _error(name, in_one_line(error), tried) from error
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # The one place that cannot know what a stranger's reward raises: it counts as a failed try.
            if tried == patience.tries:
                raise _error(name, f"it raised {type(error).__name__}: {in_one_line(error)}", tried) from error
    raise _error(name, cause, patience.tries)


def _error(name: str, cause: str, tries: int) -> RewardError:
    times = "once" if tries == 1 else f"{tries} times"
    return RewardError(
        f"reward {name!r} was asked {times} and gave no usable scores: {cause}; nothing was put in their place: "
        "mend the reward, then resume"
    )


def in_one_line(error: BaseException) -> str:
    """What an error says, however many lines it takes."""
    words = " ".join(str(error).split()) or "without a message"
    limit = _LONGEST_ADVICE if isinstance(error, RewardDanceError) else _LONGEST_CAUSE
    return words if len(words) <= limit else f"{words[:limit]}..."


def _checked(scores: object, prompts: Sequence[str]) -> Float[Tensor, " batch"]:
    values = _as_tensor(scores)
    if values.ndim != 1 or len(values) != len(prompts):
        shape = f"{len(values)}" if values.ndim == 1 else f"an array of shape {tuple(values.shape)} of"
        raise _Unusable(f"it gave {shape} scores for {len(prompts)} samples")
    for place in (~torch.isfinite(values.detach())).nonzero().flatten().tolist()[:1]:
        raise _Unusable(f"it gave {values[place].item()} for the prompt {_shortened(prompts[place])!r}")
    return values


def _as_tensor(scores: object) -> Tensor:
    if isinstance(scores, Tensor):
        if not scores.is_floating_point():
            raise _Unusable(f"it gave a tensor of {scores.dtype}, not of floating-point numbers")
        return scores if scores.dtype == torch.float64 else scores.float()
    # Numpy arrays are no `Sequence`.
    if isinstance(scores, str | bytes) or not isinstance(scores, Iterable):
        raise _Unusable(f"it gave {type(scores).__name__} where a sequence of numbers is expected")
    numbers = []
    for score in scores:
        try:
            # A text that looks like a number is an answer that nobody has parsed.
            numbers.append(math.nan if isinstance(score, str | bytes) else float(score))
        except (TypeError, ValueError):
            raise _Unusable(f"it gave {type(score).__name__} {_shortened(str(score))!r} for a number") from None
    return torch.tensor(numbers, dtype=torch.float32)


def _shortened(text: str, limit: int = 60) -> str:
    words = " ".join(text.split())
    return words if len(words) <= limit else f"{words[:limit]}..."


def _within(ask: Callable[[], object], deadline_seconds: float | None) -> object:
    """The answer, or what the call raised, or `_Unusable` when it does not end in time."""
    if deadline_seconds is None:
        return ask()
    answers: list[object] = []
    errors: list[BaseException] = []
    modes = _thread_modes()

    def work() -> None:
        try:
            with modes():
                answers.append(ask())
        except BaseException as error:
            # Raised again by the thread that waits.
            errors.append(error)

    worker = threading.Thread(target=work, name="reward", daemon=True)
    worker.start()
    worker.join(deadline_seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise _Unusable(f"it did not answer within {deadline_seconds:g} seconds")
    return answers[0]


def _thread_modes() -> Callable[[], ExitStack]:
    """What torch keeps for each thread and a new one would start without: gradient mode, autocast, current GPU."""
    has_gradient = torch.is_grad_enabled()
    casts = [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    gpu = torch.cuda.current_device() if torch.cuda.is_available() else None

    def enter() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(torch.set_grad_enabled(has_gradient))
        for kind, dtype in casts:
            stack.enter_context(torch.autocast(kind, dtype))
        if gpu is not None:
            stack.enter_context(torch.cuda.device(gpu))
        return stack

    return enter
