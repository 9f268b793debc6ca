"""The engine in a process of its own.

In one process, the model's thread and the event loop take turns on one interpreter: under overload, refusals took a
fifth of the model's time, and waited for it in turn. Here the service has an interpreter and a core to itself, and
does not even load torch.
"""

import logging
import multiprocessing
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from rewarddance.core.errors import ModelError, RewardDanceError
from rewarddance.core.parent_process import end_with_parent
from rewarddance.serving.engine import Answer, Engine, EngineFacts
from rewarddance.serving.refusals import RefusedError
from rewarddance.serving.work import Work

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came of a batch, and whether the process can still use its device."""

    answers: list[Answer | RefusedError]
    has_lost_device: bool


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """An `Engine` in another process; one caller at a time.

    Attributes:
        facts: Of the model.
        lost_device: Set when the other process has lost its device, or has ended: only a restart helps.
    """

    facts: EngineFacts
    process: BaseProcess
    connection: Connection
    lost_device: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def start(cls, load: Callable[[], Engine]) -> "EngineProcess":
        """Load a model there.

        Args:
            load: A function of a module, or a partial of one: it is sent to the process.

        Raises:
            Exception: What `load` raised.
            ModelError: The process ended without a word.
        """
        # A fresh interpreter: a fork of a process with threads may hang.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(load, there), name="engine", daemon=True)
        process.start()
        there.close()
        try:
            facts = here.recv()
        except (EOFError, OSError):
            process.join()
            raise ModelError("the process that loads the model has ended; is there enough memory for it?") from None
        if isinstance(facts, BaseException):
            process.join()
            raise facts
        engine = cls(facts, process, here)
        threading.Thread(target=engine._watch, name="engine watch", daemon=True).start()
        return engine

    def _watch(self) -> None:
        """A process that ends while nothing is asked of it is noticed too."""
        wait([self.process.sentinel])
        self.lost_device.set()

    def run(self, works: Sequence[Work]) -> list[Answer | RefusedError]:
        """See `Engine.run`.

        Raises:
            EOFError: The process has ended.
            OSError: Likewise.
        """
        try:
            self.connection.send(list(works))
            reply: _Reply = self.connection.recv()
        except (EOFError, OSError):
            self.lost_device.set()
            raise
        if reply.has_lost_device:
            self.lost_device.set()
        return reply.answers

    def close(self) -> None:
        """End the process, whatever it does; a `run` in another thread hears of its end."""
        self.process.kill()
        self.process.join()


def _serve(load: Callable[[], Engine], service: Connection) -> None:
    """Answer batches as long as there is a service."""
    # Ctrl-C and a stop of the whole group reach this process too; the service still wants its last answers.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    # A service that is killed leaves no process behind that holds its device, not even one that is busy or loads.
    end_with_parent()
    try:
        engine = load()
    except Exception as error:
        if not isinstance(error, RewardDanceError):
            _log.exception("the model could not be loaded")
        service.send(_sendable(error))
        return
    try:
        service.send(engine.facts)
        while True:
            works = service.recv()
            service.send(_Reply(engine.run(works), engine.lost_device.is_set()))
    except (EOFError, OSError):
        return  # the service has ended


def _sendable(error: Exception) -> Exception:
    """The error, or its words where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return ModelError(f"the model could not be loaded: {error}")
    return error
