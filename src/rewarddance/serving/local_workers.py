"""Shards on processes of this machine. A worker that dies is replaced, and its shard goes on where it stood."""

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from rewarddance.core.errors import RewardDanceError
from rewarddance.core.files import system_error_line
from rewarddance.serving.manifest import Judge
from rewarddance.serving.shards import ShardJob, judge_shard_persistently

_MAX_DEATHS_BEFORE_WORK = 3
_MAX_DEATHS_WITHOUT_TRACE = 3


@dataclass(frozen=True, slots=True)
class _Ready:
    """The model is loaded."""


@dataclass(frozen=True, slots=True)
class _Done:
    """A shard is finished."""

    shard: int


@dataclass(frozen=True, slots=True)
class _Broken:
    """An error that another worker would meet as well."""

    message: str


@dataclass(slots=True, eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    gpu: str | None = None
    shard: int | None = None
    is_loaded: bool = False
    journal_bytes: int = 0


@dataclass(slots=True)
class _Pool:
    """Workers and what is left for them.

    Deaths are bounded: those that the journal of a shard tells of, by row; before a model is loaded, and behind that
    without a trace in the journal, here.
    """

    job: ShardJob
    load: Callable[[], Judge]
    session: str
    left: deque[int]
    workers: list[_Worker] = field(default_factory=list)
    deaths_before_work: int = 0
    deaths_without_trace: int = 0
    gpus: Sequence[str] = ()

    def start_one(self) -> None:
        # A fresh interpreter: a fork of a process with threads, and torch has some, may hang.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        busy = Counter(worker.gpu for worker in self.workers)
        gpu = min(self.gpus, key=lambda one: busy[one], default=None)
        process = context.Process(target=_work, args=(self.job, self.load, self.session, there, os.getpid(), gpu))
        process.start()
        there.close()
        self.workers.append(_Worker(process, here, gpu))

    def give(self, worker: _Worker) -> None:
        """The next shard, or the end."""
        worker.shard = self.left.popleft() if self.left else None
        worker.journal_bytes = 0 if worker.shard is None else self.job.journal_bytes(worker.shard)
        # It may have died since its last message; then it is replaced when its silence is heard.
        with suppress(OSError):
            worker.connection.send(worker.shard)

    def hear(self, worker: _Worker) -> int:
        """One message of a worker, or its death.

        Returns:
            Shards that it reports finished, 0 or 1.
        """
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return 0
        if isinstance(message, _Broken):
            raise RewardDanceError(message.message)
        worker.is_loaded, self.deaths_before_work = True, 0
        if isinstance(message, _Done):
            self.deaths_without_trace = 0
        self.give(worker)
        return int(isinstance(message, _Done))

    def _replace(self, worker: _Worker) -> None:
        worker.process.join()
        worker.connection.close()
        self.workers.remove(worker)
        if worker.shard is not None:
            self.left.appendleft(worker.shard)
        elif worker.is_loaded:
            return  # it was sent home
        if not worker.is_loaded:
            self.deaths_before_work += 1
            if self.deaths_before_work >= _MAX_DEATHS_BEFORE_WORK:
                raise RewardDanceError("workers die while they load the model; is there enough memory for so many?")
        elif worker.shard is not None:
            self._count_silent_death(worker, worker.shard)
        self.start_one()

    def _count_silent_death(self, worker: _Worker, shard: int) -> None:
        if self.job.journal_bytes(shard) != worker.journal_bytes:
            self.deaths_without_trace = 0
            return
        self.deaths_without_trace += 1
        if self.deaths_without_trace >= _MAX_DEATHS_WITHOUT_TRACE:
            raise RewardDanceError(
                f"{self.deaths_without_trace} workers died before their first row, {_end_of(worker.process)}; "
                "mend that, and start the command again: finished rows are kept"
            )

    def stop(self) -> None:
        """Nobody is left behind, whatever has happened."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()


def judge_on_processes(
    job: ShardJob,
    load: Callable[[], Judge],
    workers: int,
    session: str,
    show: Callable[[int], None],
    gpus: Sequence[str] = (),
) -> None:
    """Finish every shard.

    Args:
        job: Its folder is open.
        load: Loads the judge; is sent to the workers, so it is a function of a module or a partial of one.
        workers: Processes, each with a model of its own.
        session: Of this driver.
        show: Told how many rows are done.
        gpus: CUDA's names of the GPUs to deal out, each to as many workers as the next; a worker sees its own alone.
            With none, every worker sees what this process sees.

    Raises:
        RewardDanceError: The model cannot be loaded, a file cannot be written, or workers die again and again.
    """
    pending = job.pending()
    pool = _Pool(job, load, session, deque(pending), gpus=gpus)
    finished = len(job.shards) - len(pending)
    show(finished * job.shard_rows)
    try:
        for _ in range(min(workers, len(pending))):
            pool.start_one()
        while pool.workers:
            by_connection = {worker.connection: worker for worker in pool.workers}
            for connection in wait(list(by_connection)):
                assert isinstance(connection, Connection)
                finished += pool.hear(by_connection[connection])
                show(min(finished * job.shard_rows, len(job.manifest)))
    finally:
        pool.stop()


def _work(
    job: ShardJob, load: Callable[[], Judge], session: str, driver: Connection, driver_id: int, gpu: str | None
) -> None:
    """A worker: shards as long as there are any, and as long as there is a driver."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # CUDA has not started in this process yet
    try:
        judge = load()
        driver.send(_Ready())
        while (shard := driver.recv()) is not None:
            judge_shard_persistently(job, shard, judge, session, lambda: os.getppid() == driver_id)
            driver.send(_Done(shard))
    except RewardDanceError as error:
        _tell(driver, str(error))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # the driver is gone or goes
    except OSError as error:
        _tell(driver, system_error_line(error))


def _tell(driver: Connection, problem: str) -> None:
    with suppress(OSError):  # the driver may be gone
        driver.send(_Broken(problem))


def _end_of(process: BaseProcess) -> str:
    """How a process ended, in words."""
    code = process.exitcode or 0
    return f"the last one by signal {-code}" if code < 0 else f"the last one with exit code {code} and a message above"
