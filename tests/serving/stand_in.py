"""A reward model that answers when it is told to, and a service around it that listens in a thread."""

import asyncio
import base64
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from rewarddance.core.types import Judgement, JudgementRequest, Ranking, Status
from rewarddance.serving.engine import Engine, ModelEngine
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.server import listening_socket, serve_on
from rewarddance.serving.service import Service


def wait_until(is_true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.005)


class StandInModel:
    """Rewards a prompt by its length. Waits at a gate; a prompt with the word explode breaks it."""

    kind = "pairwise"
    backbone = None
    training = None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[str]] = []

    def judge(self, requests: Sequence[JudgementRequest], order_mode: str | None = None) -> list[Judgement]:
        assert self.gate.wait(20)
        self.batches.append([request.prompt for request in requests])
        if any("explode" in request.prompt for request in requests):
            raise RuntimeError("kernel at 0x7f00dead failed")
        return [
            Judgement(Status.TOO_LONG, message="secret words")
            if "long" in request.prompt
            else Judgement(Status.OK, score=0.5, reward=float(len(request.prompt)), id=request.id)
            for request in requests
        ]

    def rank(self, prompt: str, candidates: Sequence[bytes], instruction: str | None = None) -> Ranking:
        assert self.gate.wait(20)
        count = len(candidates)
        return Ranking(tuple(range(count)), (1.0,) * count, (0.0,) * count, ())


def engine_of(model: Any, limits: ServiceLimits | None = None) -> ModelEngine:
    return ModelEngine(model, "stand-in", frozenset({"overall"}), (limits or ServiceLimits()).media)


def png(color: str = "red", size: tuple[int, int] = (8, 8)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def judge_body(prompt: str = "a cat", **more: object) -> dict[str, object]:
    return {"prompt": prompt, "candidate": data_uri(png()), "reference_images": [data_uri(png("blue"))], **more}


@dataclass
class Reply:
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        return self.body["error"]["code"]


@dataclass
class Running:
    """A service that listens."""

    port: int
    service: Service
    stop: Callable[[], None]
    thread: threading.Thread
    token: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        is_json = answer.headers.get("content-type") == "application/json"
        return Reply(
            answer.status,
            json.loads(text) if is_json else text,
            {name.lower(): value for name, value in answer.headers.items()},
        )

    def post(self, path: str, body: object, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, json.dumps(body).encode(), {"content-type": "application/json", **named})

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)


@contextmanager
def running(
    model: Any = None,
    limits: ServiceLimits | None = None,
    token: str | None = None,
    load: Callable[[], Engine] | None = None,
    **more: Any,
) -> Iterator[Running]:
    limits = limits or ServiceLimits(drain_seconds=0.0)
    service = Service(load or (lambda: engine_of(model or StandInModel(), limits)), limits, **more)
    listener = listening_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    started = threading.Event()
    stops: list[Callable[[], None]] = []

    def serve() -> None:
        async def main() -> None:
            def on_started(stop: Callable[[], None]) -> None:
                loop = asyncio.get_running_loop()
                stops.append(lambda: loop.call_soon_threadsafe(stop))
                started.set()

            await serve_on(service, listener, token, on_started)

        asyncio.run(main())

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(20)
    for _ in range(6_000):
        if service.is_ready or service.failure is not None:
            break
        threading.Event().wait(0.01)
    here = Running(port, service, stops[0], thread, token)
    try:
        yield here
    finally:
        if thread.is_alive():
            stops[0]()
            stops[0]()
        thread.join(20)
        assert not thread.is_alive()
