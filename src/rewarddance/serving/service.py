"""One running service: its model, its queue, its budgets, and the road of a request through them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rewarddance.serving.bodies import Body, ByteBudget, read_body
from rewarddance.serving.engine import Answer, Engine, EngineFacts
from rewarddance.serving.fetching import Fetcher
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.monitoring import Monitoring
from rewarddance.serving.plans import Plan, Planner
from rewarddance.serving.refusals import RefusalCode, RefusedError
from rewarddance.serving.remembered_answers import RememberedAnswers
from rewarddance.serving.request_ids import request_id_of
from rewarddance.serving.work import media_bytes_of
from rewarddance.serving.work_queue import WorkQueue

# Header checks are short; what takes longer (an animation of many frames, a slow address) must not hold up the others.
_PLANNING_THREADS = 16
_STUCK_DEADLINES = 4
_CLIENT_HUNG_UP = 499

Render = Callable[[Answer, str], Mapping[str, object]]


@dataclass(slots=True)
class Service:
    """The state of a service.

    Attributes:
        load: Loads the model; takes long, so it runs in a thread while the service already answers that it is not
            ready.
        limits: What is taken at most.
        fetcher: For media that are addresses; the default fetches nothing.
        engine: The model, once it is loaded.
        is_draining: Whether the service is about to stop: nothing new is taken.
        failure: Why the model could not be loaded.
        on_failure: Called when it could not.
    """

    load: Callable[[], Engine]
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    fetcher: Fetcher = field(default_factory=Fetcher)
    engine: Engine | None = None
    is_draining: bool = False
    failure: Exception | None = None
    on_failure: Callable[[], None] = lambda: None
    monitoring: Monitoring = field(default_factory=Monitoring)
    answers: RememberedAnswers = field(default_factory=RememberedAnswers)
    _queue: WorkQueue | None = None
    _budget: ByteBudget = field(default_factory=lambda: ByteBudget(0))
    _planning: ThreadPoolExecutor | None = None

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken."""
        return self.engine is not None and not self.engine.lost_device.is_set() and not self.is_draining

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return self._queue is None or (self._queue.is_idle and self._budget.held == 0)

    @property
    def is_stuck(self) -> bool:
        """Whether one batch has been running for several deadlines, or the device is lost: only a restart helps."""
        if self.engine is not None and self.engine.lost_device.is_set():
            return True
        since = None if self._queue is None else self._queue.running_since
        return since is not None and time.monotonic() - since > _STUCK_DEADLINES * self.limits.deadline_seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the model and work on the queue while the context is open."""
        self._budget = ByteBudget(self.limits.max_buffered_bytes)
        with ThreadPoolExecutor(_PLANNING_THREADS, thread_name_prefix="planning") as self._planning:
            task = asyncio.create_task(self._load_and_serve())
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _load_and_serve(self) -> None:
        assert self._planning is not None
        loading = self._planning.submit(self.load)
        try:
            engine = await asyncio.wrap_future(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(_close_unless_failed)
            raise
        except Exception as error:
            # Whatever it is, a service that waits for its model for ever would be worse.
            self.failure = error
            self.on_failure()
            return
        self._queue = WorkQueue(engine.run, self.limits, self.monitoring.batch)
        self.engine = engine
        await self._queue.serve(engine.close)

    async def respond(
        self, request: Request, route: str, plan: Callable[[Planner, Body], Plan], render: Render
    ) -> Response:
        """Answer one request that asks the model.

        Args:
            request: Authenticated; its body has not been read.
            route: Its template.
            plan: From body to work.
            render: From an answer and the model's name to JSON.
        """
        engine, queue = self._open_for_work()
        request_id = request_id_of(request)
        with self._budget.lease() as lease:
            body = await read_body(request, self.limits, lease)
            started = time.monotonic()
            planner = Planner(engine, self.limits, self.fetcher, started)
            with queue.place():
                planned = await asyncio.get_running_loop().run_in_executor(self._planning, plan, planner, body)
            # Media that were fetched did not come with the body, and are paid for as well.
            lease.take(max(0, media_bytes_of(planned.work) - len(body.raw)))
            seconds = started + self.limits.seconds_for(planned.seconds) - time.monotonic()
            if seconds <= 0:
                raise RefusedError(RefusalCode.DEADLINE_EXCEEDED)

            async def compute() -> Answer:
                return await queue.answer(planned.work, seconds)

            if request_id is None:
                answer = await _unless_hung_up(request, compute())
            else:
                # Whoever sent an id may ask for the answer again, so the work goes on without a listener.
                answer = await self.answers.once(route, request_id, body.raw, compute)
        if answer is None:
            return Response(status_code=_CLIENT_HUNG_UP)
        return JSONResponse(render(answer, engine.name))

    def metrics(self) -> bytes:
        """The page for Prometheus."""
        waiting, running = (0, 0) if self._queue is None else (self._queue.waiting, self._queue.running)
        return self.monitoring.page(waiting, running, self._budget.held, self.is_ready)

    def check_ready(self) -> EngineFacts:
        """What there is to know of the model.

        Raises:
            RefusedError: It is not loaded, or the service is about to stop.
        """
        if self.is_draining:
            raise RefusedError(RefusalCode.DRAINING, retry_after_seconds=5)
        if self.engine is None:
            raise RefusedError(RefusalCode.NOT_READY, retry_after_seconds=5)
        if self.engine.lost_device.is_set():
            raise RefusedError(RefusalCode.ENGINE_FAILED)
        return self.engine.facts

    @property
    def full_queue(self) -> RefusedError | None:
        """The refusal of whatever would ask the model now; None when there is room, or another reason to refuse."""
        queue = self._queue
        return queue.busy() if queue is not None and self.is_ready and queue.is_full else None

    def _open_for_work(self) -> tuple[EngineFacts, WorkQueue]:
        """Refusals that need no body come before it is read."""
        engine = self.check_ready()
        if (refusal := self.full_queue) is not None:
            raise refusal
        assert self._queue is not None
        return engine, self._queue


def _close_unless_failed(loading: "Future[Engine]") -> None:
    """A model that comes when nobody wants it any more."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result().close()


async def _unless_hung_up(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer | None:
    """The answer; None when the client hangs up first, and then the work is taken out of the queue."""
    answer = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hang_up(request.receive))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await answer if answer.done() else None
    finally:
        answer.cancel()
        gone.cancel()


async def _hang_up(receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
