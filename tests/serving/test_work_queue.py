import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from rewarddance.core.types import Judgement, JudgementRequest, Status
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.refusals import RefusalCode, RefusedError
from rewarddance.serving.work import JudgeWork, RankWork, Work
from rewarddance.serving.work_queue import WorkQueue

Scenario = Callable[[WorkQueue], Awaitable[None]]
OK = Judgement(Status.OK, score=0.5, reward=0.0)


def work(prompt: str = "a", order_mode=None) -> JudgeWork:
    return JudgeWork(JudgementRequest(prompt, b"", b""), order_mode)


def ranking(candidates: int) -> RankWork:
    return RankWork("a", (b"",) * candidates)


def run(
    scenario: Callable[[WorkQueue], Awaitable[None]], answer=None, limits: ServiceLimits | None = None
) -> list[int]:
    """Runs a scenario on a queue; gives the sizes of the batches."""
    batches: list[int] = []

    def default(works: Sequence[Work]):
        return [OK for _ in works]

    def counted(works: Sequence[Work]):
        batches.append(len(works))
        return (answer or default)(works)

    async def main() -> None:
        queue = WorkQueue(counted, limits or ServiceLimits())
        serving = asyncio.create_task(queue.serve())
        await scenario(queue)
        serving.cancel()

    asyncio.run(main())
    return batches


def test_a_batch_holds_so_many_comparisons_at_most():
    async def scenario(queue: WorkQueue) -> None:
        await asyncio.gather(*(queue.answer(work(), 10) for _ in range(10)))

    assert run(scenario, limits=ServiceLimits(batch_comparisons=4, batch_wait_seconds=0.05)) == [4, 4, 2]


def test_work_of_different_kinds_is_not_mixed():
    async def scenario(queue: WorkQueue) -> None:
        works = [work(), work(order_mode="one"), work(), ranking(3), work(order_mode="one"), ranking(3)]
        await asyncio.gather(*(queue.answer(one, 10) for one in works))

    assert run(scenario, limits=ServiceLimits(batch_wait_seconds=0.05)) == [2, 2, 1, 1]


def test_a_ranking_larger_than_the_queue_is_taken_when_nothing_waits():
    async def scenario(queue: WorkQueue) -> None:
        await queue.answer(ranking(16), 10)

    assert run(scenario, limits=ServiceLimits(queue_comparisons=10)) == [1]


def test_a_ranking_that_does_not_fit_beside_others_is_refused():
    async def scenario(queue: WorkQueue) -> None:
        waiting = asyncio.create_task(queue.answer(work(), 10))
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="queue is full"):
            await queue.answer(ranking(16), 10)
        await waiting

    assert run(scenario, limits=ServiceLimits(queue_comparisons=100)) == [1]


def test_a_place_is_kept_while_work_is_made_and_given_back_when_that_fails():
    async def scenario(queue: WorkQueue) -> None:
        with queue.place(), queue.place():
            assert queue.is_full
            with pytest.raises(RefusedError, match="queue is full"), queue.place():
                pass
            # A place that is kept is one for whoever keeps it.
            await queue.answer(work(), 10)
        assert not queue.is_full
        with pytest.raises(RefusedError, match="damaged"), queue.place():
            raise RefusedError(RefusalCode.INVALID_MULTIPART)
        assert queue.coming == 0

    assert run(scenario, limits=ServiceLimits(queue_comparisons=2)) == [1]


def test_what_cannot_be_answered_in_time_is_refused_at_once():
    def slow(works: Sequence[Work]):
        time.sleep(0.1 * len(works))
        return [OK for _ in works]

    async def scenario(queue: WorkQueue) -> None:
        for _ in range(3):
            await queue.answer(work(), 10)
        start = time.monotonic()
        with pytest.raises(RefusedError) as caught:
            await queue.answer(ranking(8), 1)
        assert time.monotonic() - start < 0.5
        assert caught.value.retry_after_seconds == 1

    assert run(scenario, slow) == [1, 1, 1]


def test_the_warming_up_of_the_model_does_not_close_the_service():
    pauses = iter([0.3, 0.0, 0.0])

    def cold(works: Sequence[Work]):
        time.sleep(next(pauses))
        return [OK for _ in works]

    async def scenario(queue: WorkQueue) -> None:
        for _ in range(3):
            await queue.answer(work(), 10)
        assert queue._seconds_each < 0.1

    run(scenario, cold)


def test_a_batch_that_fails_as_a_whole_does_not_stop_the_queue():
    answers = iter([RuntimeError("broken"), None])

    def broken_once(works: Sequence[Work]):
        failure = next(answers)
        if failure is not None:
            raise failure
        return [OK for _ in works]

    async def scenario(queue: WorkQueue) -> None:
        with pytest.raises(RefusedError, match="the model failed"):
            await queue.answer(work(), 10)
        assert await queue.answer(work(), 10) is OK

    assert run(scenario, broken_once) == [1, 1]


def test_work_that_is_cancelled_or_late_is_taken_out():
    async def scenario(queue: WorkQueue) -> None:
        cancelled = asyncio.create_task(queue.answer(work("cancelled"), 10))
        late = asyncio.create_task(queue.answer(work("late"), 0.001))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0.02)
        assert await queue.answer(work("wanted"), 10) is OK
        assert (queue.waiting, queue.is_idle) == (0, True)
        with pytest.raises(RefusedError, match="deadline"):
            await late

    assert run(scenario, limits=ServiceLimits(batch_wait_seconds=0.1)) == [1]


def test_one_stalled_batch_does_not_close_the_service():
    # The second batch sets the pace: 0.5 s a comparison, more than this client will wait.
    pauses = iter([0.0, 0.5, 0.0, 0.0])

    def stalled(works: Sequence[Work]):
        time.sleep(next(pauses))
        return [OK for _ in works]

    async def scenario(queue: WorkQueue) -> None:
        for seconds in (10, 10, 0.4, 0.4):
            await queue.answer(work(), seconds)

    assert run(scenario, stalled) == [1, 1, 1, 1]
