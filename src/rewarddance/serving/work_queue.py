"""A bounded queue in front of one engine, and the loop that makes batches of it.

The queue is measured in comparisons. What cannot be answered before its deadline is refused when it arrives, not when
the deadline has passed: a client that hears so at once can ask elsewhere, and no time is spent on answers that nobody
waits for. Whoever hangs up is taken out.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from rewarddance.serving.engine import Answer
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.refusals import RefusalCode, RefusedError
from rewarddance.serving.work import Work, cost_of, lane_of

_log = logging.getLogger(__name__)

_MEMORY = 0.7
"""Weight of the past in the running mean of seconds a comparison."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    work: Work
    cost: int
    deadline: float
    answer: "asyncio.Future[Answer]"


@dataclass(slots=True)
class WorkQueue:
    """Work that waits for the engine.

    Attributes:
        run: Answers a batch of one lane, in order; called in a thread of its own, one batch at a time.
        limits: Sizes of the queue and of a batch.
        watch: Told about every batch: its comparisons, and its seconds.
        running_since: `time.monotonic()` of the batch in progress; None between batches.
        waiting: Comparisons in the queue.
        running: Comparisons in the batch in progress.
        coming: Requests whose body is there and whose work is still being made.
    """

    run: Callable[[Sequence[Work]], list[Answer | RefusedError]]
    limits: ServiceLimits
    watch: Callable[[int, float], None] = lambda comparisons, seconds: None
    running_since: float | None = None
    waiting: int = 0
    running: int = 0
    coming: int = 0
    _jobs: deque[_Job] = field(default_factory=deque)
    _seconds_each: float = 0.0
    _batches: int = 0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_full(self) -> bool:
        """Whether there is no place even for the smallest piece of work; asked before a body is read."""
        return self.waiting + self.coming >= self.limits.queue_comparisons

    @contextmanager
    def place(self) -> Iterator[None]:
        """Keep a place while work is made of a body, so that nobody waits for that only to be refused.

        Not earlier: bodies that drip would hold every place.

        Raises:
            RefusedError: The queue is full.
        """
        if self.is_full:
            raise self.busy()
        self.coming += 1
        try:
            yield
        finally:
            self.coming -= 1

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._jobs and self.running == 0

    def busy(self) -> RefusedError:
        """The refusal of a full queue, with the time in which it should have emptied."""
        wait = (self.waiting + self.running) * self._seconds_each
        return RefusedError(RefusalCode.BUSY, retry_after_seconds=max(1, math.ceil(wait)))

    async def answer(self, work: Work, seconds: float) -> Answer:
        """Wait for an answer; a caller that is cancelled takes its work out of the queue.

        Args:
            work: What to do.
            seconds: Until the caller gives up.

        Raises:
            RefusedError: The queue is full, the deadline cannot be met or was not met, or the engine refused.
        """
        cost = cost_of(work)
        wait = (self.waiting + self.running + cost) * self._seconds_each
        # A ranking may be larger than the queue; it is taken when nothing else waits.
        is_too_much = self.waiting > 0 and self.waiting + cost > self.limits.queue_comparisons
        # One stalled batch spoils the pace, and only another batch mends it: when the engine has nothing to do, a small
        # piece of work is taken whatever the pace says. Otherwise everything would be refused for ever.
        is_probe = self.is_idle and cost <= self.limits.batch_comparisons
        is_full = self.waiting >= self.limits.queue_comparisons
        if is_full or is_too_much or (wait > seconds and not is_probe):
            raise self.busy()
        job = _Job(work, cost, time.monotonic() + seconds, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self.waiting += cost
        self._arrived.set()
        try:
            async with asyncio.timeout(seconds):
                return await job.answer
        except TimeoutError:
            raise RefusedError(RefusalCode.DEADLINE_EXCEEDED) from None

    async def serve(self, close: Callable[[], None] = lambda: None) -> None:
        """Make batches until cancelled.

        Args:
            close: Called in the end, before the batch in progress is waited for: it may end that batch.
        """
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="engine") as thread, ExitStack() as end:
            end.callback(close)
            while True:
                await self._arrived.wait()
                if self.waiting < self.limits.batch_comparisons and self.limits.batch_wait_seconds:
                    await asyncio.sleep(self.limits.batch_wait_seconds)
                batch = self._next_batch()
                if not self._jobs:
                    self._arrived.clear()
                if batch:
                    await self._work_on(batch, loop, thread)

    def _learn_pace(self, seconds_each: float) -> None:
        """The first batch is not typical, because it warms the model up; by its pace, everything would be refused."""
        if self._batches == 1:
            self._seconds_each = seconds_each
        elif self._batches > 1:
            self._seconds_each = _MEMORY * self._seconds_each + (1 - _MEMORY) * seconds_each
        self._batches += 1

    def _next_batch(self) -> list[_Job]:
        """The oldest job and others of its lane, in order of arrival."""
        batch: list[_Job] = []
        kept: deque[_Job] = deque()
        size = 0
        while self._jobs:
            job = self._jobs.popleft()
            if job.answer.done() or job.deadline < time.monotonic():
                self.waiting -= job.cost  # nobody waits for it any more
            elif not batch or (
                lane_of(job.work) == lane_of(batch[0].work) and size + job.cost <= self.limits.batch_comparisons
            ):
                batch.append(job)
                size += job.cost
                self.waiting -= job.cost
            else:
                kept.append(job)
        self._jobs = kept
        return batch

    async def _work_on(self, batch: list[_Job], loop: asyncio.AbstractEventLoop, thread: ThreadPoolExecutor) -> None:
        self.running = sum(job.cost for job in batch)
        self.running_since = start = time.monotonic()
        answers: list[Answer | RefusedError]
        try:
            answers = await loop.run_in_executor(thread, self.run, [job.work for job in batch])
        except Exception:
            # Whatever happens to one batch, the loop that serves the next one goes on.
            _log.exception("a batch failed")
            answers = [RefusedError(RefusalCode.ENGINE_FAILED) for _ in batch]
        seconds = time.monotonic() - start
        self._learn_pace(seconds / self.running)
        self.watch(self.running, seconds)
        self.running, self.running_since = 0, None
        for job, answer in zip(batch, answers, strict=True):
            if job.answer.done():
                continue
            if isinstance(answer, RefusedError):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)
