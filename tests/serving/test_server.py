"""The program itself, stopped by a signal."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rewarddance.serving.engine import ModelEngine
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.server import listening_socket, run_service, serve_on
from rewarddance.serving.service import Service
from tests.cli.command_line import error_of
from tests.serving.stand_in import StandInModel, engine_of, judge_body

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.server import listening_socket, run_service
from rewarddance.serving.service import Service
from tests.serving.stand_in import StandInModel, engine_of
import time

class Slow(StandInModel):
    def judge(self, requests, order_mode=None):
        print("judging", flush=True)
        time.sleep(1.0)
        return super().judge(requests, order_mode)

listener = listening_socket("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
run_service(Service(lambda: engine_of(Slow()), ServiceLimits(drain_seconds=0.3)), listener, None)
"""


def test_sigterm_answers_what_was_taken_and_exits_with_zero():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        end = time.monotonic() + 60
        while True:
            connection.request("GET", "/ready")
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                break
            assert time.monotonic() < end
            time.sleep(0.05)
        connection.request("POST", "/v1/judge", json.dumps(judge_body("taken")), {"content-type": "application/json"})
        assert process.stdout.readline() == "judging\n"
        process.send_signal(signal.SIGTERM)
        answer = connection.getresponse()
        reward = json.loads(answer.read())["reward"]
        connection.close()
        code = process.wait(60)

    assert (answer.status, reward, code) == (200, 5.0, 0)


def test_an_answer_is_sent_without_waiting_for_the_acknowledgement_of_its_head():
    with listening_socket("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_event_loop_need_not_wait_long_for_other_threads():
    """Python lets one thread run for 5 ms; a refusal that waits for that several times is none at once."""
    listener, before, during = listening_socket("127.0.0.1", 0), sys.getswitchinterval(), []

    def started(stop: Callable[[], None]) -> None:
        during.append(sys.getswitchinterval())
        stop()

    service = Service(lambda: engine_of(StandInModel()), ServiceLimits(drain_seconds=0.0))
    asyncio.run(serve_on(service, listener, None, started))
    assert during[0] <= 1e-3 < before == sys.getswitchinterval()


def test_a_model_that_does_not_exist_ends_the_service_with_one_line(tmp_path: Path, capsys):
    # The service listens before the model is loaded, so the failure comes from inside it.
    from rewarddance.cli.main import main

    assert main(["serve", str(tmp_path / "nothing"), "--port", "0"]) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("listening on http://127.0.0.1:")
    assert lines[-1].startswith("error: ")
    assert len(lines) == 2


def test_an_open_address_without_token_is_bad_usage(capsys, monkeypatch):
    monkeypatch.delenv("REWARDDANCE_TOKEN", raising=False)

    assert "set a token" in error_of(capsys, "serve", "lab:small", "--host", "0.0.0.0", code=2)


def test_a_wildcard_is_no_host_to_fetch_from(capsys):
    assert "is no host" in error_of(capsys, "serve", "lab:small", "--allow-host", "*.example.org", code=2)


def test_a_model_that_cannot_be_loaded_for_whatever_reason_ends_the_service():
    def load() -> ModelEngine:
        raise KeyError("no such architecture")

    service = Service(load, ServiceLimits(drain_seconds=0.0))
    with listening_socket("127.0.0.1", 0) as listener, pytest.raises(KeyError, match="no such architecture"):
        run_service(service, listener, None)


def test_whoever_stops_the_service_is_told_how_before_the_first_request_is_taken():
    # A SIGTERM in the first moments would otherwise meet the handlers of uvicorn, or none.
    found: list[tuple[int, object]] = []
    before = signal.getsignal(signal.SIGTERM)

    async def main() -> None:
        def started(stop: Callable[[], None]) -> None:
            found.append((len(asyncio.all_tasks()), stop))
            asyncio.get_running_loop().call_later(0.2, check)

            def again() -> None:
                stop()
                stop()

            asyncio.get_running_loop().call_later(0.4, again)

        def check() -> None:
            found.append((0, signal.getsignal(signal.SIGTERM)))

        service = Service(lambda: engine_of(StandInModel()), ServiceLimits(drain_seconds=0.0))
        with listening_socket("127.0.0.1", 0) as listener:
            await serve_on(service, listener, None, started)

    asyncio.run(main())
    # Three tasks were there and none had begun: this one, the server and the sweeper. uvicorn's handlers never came.
    assert found[0][0] == 3
    assert found[1] == (0, before)
