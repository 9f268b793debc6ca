"""The engine in a process of its own, and a service on it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest

from rewarddance.core.errors import ModelError, UsageError
from rewarddance.core.types import Judgement, JudgementRequest
from rewarddance.serving.engine import ModelEngine
from rewarddance.serving.engine_process import EngineProcess
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.refusals import RefusalCode, RefusedError
from rewarddance.serving.work import JudgeWork
from tests.serving.stand_in import StandInModel, engine_of, judge_body, running, wait_until


class Mortal(StandInModel):
    """Ends its process, or loses its device, when a prompt says so."""

    def judge(self, requests, order_mode=None):
        words = " ".join(request.prompt for request in requests)
        if "die" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if "lose" in words:
            raise type("AcceleratorError", (RuntimeError,), {})("illegal access")
        if "sleep" in words:
            time.sleep(1)
        if "hang" in words:
            time.sleep(600)
        return super().judge(requests, order_mode)


def load() -> ModelEngine:
    return engine_of(Mortal())


def fail(error: Exception) -> ModelEngine:
    raise error


def end() -> ModelEngine:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def work(prompt: str) -> JudgeWork:
    return JudgeWork(JudgementRequest(prompt, b"a", b"b"))


def test_answers_and_refusals_come_through():
    engine = EngineProcess.start(load)
    try:
        assert engine.facts == engine_of(Mortal()).facts
        answer, too_long, broken = engine.run([work("abc"), work("long"), work("explode")])
        assert isinstance(answer, Judgement)
        assert answer.reward == 3.0
        assert [getattr(one, "code", None) for one in (too_long, broken)] == [
            RefusalCode.TOO_LONG,
            RefusalCode.ENGINE_FAILED,
        ]
        assert not engine.lost_device.is_set()
    finally:
        engine.close()
    assert not engine.process.is_alive()


@pytest.mark.parametrize("error", [UsageError("no such folder"), KeyError("no such architecture")])
def test_what_keeps_a_model_from_loading_is_raised_here(error: Exception):
    with pytest.raises(type(error), match="no such"):
        EngineProcess.start(partial(fail, error))


def test_a_process_that_ends_while_it_loads_is_one_line():
    with pytest.raises(ModelError, match="enough memory"):
        EngineProcess.start(end)


def test_a_process_that_ends_fails_its_requests_and_the_health_of_the_service():
    with running(load=started_engine) as here:
        assert here.post("/v1/judge", judge_body("fine")).status == 200
        died = here.post("/v1/judge", judge_body("die"))
        after = here.post("/v1/judge", judge_body("fine"))

        assert [(one.status, one.code) for one in (died, after)] == [(500, "engine_failed")] * 2
        assert here.get("/health").status == 500


def test_a_lost_device_of_the_other_process_is_known_here():
    with running(load=started_engine) as here:
        assert here.get("/health").status == 200
        assert here.post("/v1/judge", judge_body("lose")).code == "engine_failed"
        assert here.get("/health").status == 500


def test_signals_for_the_whole_group_do_not_take_the_last_answers():
    limits = ServiceLimits(drain_seconds=0.0)
    with running(limits=limits, load=started_engine) as here:
        process = here.service.engine.process
        for name in (signal.SIGINT, signal.SIGTERM):
            os.kill(process.pid, name)
        assert here.post("/v1/judge", judge_body("sleep")).status == 200
    assert not process.is_alive()


def test_a_refusal_that_is_sent_stays_what_it_was():
    import pickle

    refusal = RefusedError(RefusalCode.BUSY, "prompt", 7)
    again = pickle.loads(pickle.dumps(refusal))
    assert (again.code, again.field, again.retry_after_seconds, str(again)) == (
        RefusalCode.BUSY,
        "prompt",
        7,
        str(refusal),
    )


def test_the_service_needs_no_torch():
    """The model is in a process of its own; the one that listens is small and starts at once."""
    modules = ("app", "engine_process", "server", "service")
    lines = "; ".join(f"import rewarddance.serving.{name}" for name in modules)
    command = [sys.executable, "-c", f"import sys; {lines}; print('torch' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_process_that_is_busy_for_ever_ends_with_the_service():
    with running(limits=ServiceLimits(drain_seconds=0.0, deadline_seconds=0.2), load=started_engine) as here:
        process = here.service.engine.process
        assert here.post("/v1/judge", judge_body("hang")).code == "deadline_exceeded"
        start = time.monotonic()
        here.stop()
        here.stop()
        here.thread.join(10)
        assert not here.thread.is_alive()
        assert time.monotonic() - start < 10
    assert not process.is_alive()


def started_engine() -> EngineProcess:
    return EngineProcess.start(load)


def test_a_process_whose_service_is_killed_ends_though_it_is_busy():
    script = (
        "import threading, time\n"
        "from tests.serving.test_engine_process import started_engine, work\n"
        "if __name__ == '__main__':\n"
        "    engine = started_engine()\n"
        "    print(engine.process.pid, flush=True)\n"
        "    engine.run([work('hang')])\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        process = psutil.Process(int(service.stdout.readline()))
        time.sleep(0.3)
        service.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        process.wait(10)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_ends_while_idle_is_noticed():
    with running(load=started_engine) as here:
        here.service.engine.process.kill()
        wait_until(lambda: here.get("/health").status == 500)
        assert here.get("/ready").status == 500
