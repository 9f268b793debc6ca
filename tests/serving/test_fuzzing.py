"""Damaged bodies by the thousand, straight into the application. REWARDDANCE_FUZZ_BODIES sets how many."""

import asyncio
import json
import os
import random
import re
from typing import Any

import pytest

from rewarddance.serving import next_token
from rewarddance.serving.app import build_app
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.service import Service
from rewarddance.serving.work import NextToken, TokenChance
from tests.serving.stand_in import StandInModel, data_uri, engine_of, judge_body, png

BODIES = int(os.environ.get("REWARDDANCE_FUZZ_BODIES", "300"))
LEAKS = re.compile(
    rb"0x[0-9a-f]|Traceback|Error\b(?!\":)|Exception|File \"|site-packages|/work|/tmp|<_io|object at", re.IGNORECASE
)
SEEDS: dict[str, Any] = {
    "/v1/judge": judge_body(),
    "/v1/rank": {"prompt": "a", "candidates": [data_uri(png()), data_uri(png("blue"))]},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "0xdead?"}]}],
        "logprobs": True,
        "top_logprobs": 5,
    },
}
ODD: list[Any] = [
    None, True, 0, -1, 1e308, -0.0, 10**400, "", "\x00", "\u202e", "a" * 10_000, [], {}, [[]], {"": ""}, "0x7fff0000",
    float("nan"), float("inf"), "data:", "data:;base64,", "data:image/png;base64,AAAA", "part:request", "part:",
]  # fmt: skip
RAW: list[bytes] = [
    b"", b"{", b"nul", b"NaN", b"Infinity", b'{"a":1}{', b"\xff\xfe\x00", b'"\\ud800"', b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"prompt":"a","prompt":"b"}', b"{}" + b" " * 1_000, b"\xef\xbb\xbf{}", b"0" * 10_000, b"1" * 5_000,
    b'{"prompt": NaN}', b'{"deadline_seconds": 1e999}', b'{"deadline_seconds": Infinity, "prompt": "\xed\xa0\x80"}',
]  # fmt: skip


def damaged(rng: random.Random, seed: Any) -> bytes:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(RAW)
    if kind == 1:
        return json.dumps(changed(rng, seed)).encode()
    data = bytearray(json.dumps(changed(rng, seed) if kind == 2 else seed).encode())
    for _ in range(rng.randrange(1, 8)):
        place = rng.randrange(len(data) + 1)
        data[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(data[: rng.randrange(len(data) + 1)]) if kind == 4 else bytes(data)


def changed(rng: random.Random, value: Any, depth: int = 0) -> Any:
    if depth > 5 or rng.random() < 0.25:
        return rng.choice(ODD)
    if isinstance(value, dict):
        found = {key: changed(rng, inner, depth + 1) if rng.random() < 0.4 else inner for key, inner in value.items()}
        if rng.random() < 0.2:
            found[rng.choice(["0xabc", "", "__proto__", "prompt ", "\u0000"])] = rng.choice(ODD)
        return found
    if isinstance(value, list):
        return [changed(rng, inner, depth + 1) for inner in value] * rng.choice([0, 1, 1, 2, 20])
    return rng.choice(ODD)


async def ask(app: Any, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []
    chunks = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if chunks:
            return chunks.pop()
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"", "headers": [(b"content-type", kind.encode())], "scheme": "http", "server": ("x", 80),
        "client": ("127.0.0.1", 1), "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def run_fuzz(count: int, model: Any = None) -> list[tuple[int, bytes, bytes]]:
    async def main() -> list[tuple[int, bytes, bytes]]:
        rng = random.Random(0)
        limits = ServiceLimits(batch_wait_seconds=0.0)
        service = Service(lambda: engine_of(model or StandInModel(), limits), limits)
        app = build_app(service, None)
        found = []
        async with service.running():
            while not service.is_ready:
                await asyncio.sleep(0.01)
            for _ in range(count):
                path = rng.choice(list(SEEDS))
                body = damaged(rng, SEEDS[path])
                kind = rng.choice(["application/json"] * 5 + ["multipart/form-data; boundary=x", "text/plain"])
                status, answer = await ask(app, path, body, kind)
                found.append((status, answer, body))
        return found

    return asyncio.run(main())


def test_damaged_bodies_are_the_clients_errors_and_nothing_leaks(monkeypatch: pytest.MonkeyPatch):
    # The stand-in has no vocabulary.
    chance = TokenChance("yes", -0.1)
    monkeypatch.setattr(
        next_token, "next_tokens", lambda _, works, __: [NextToken(chance, (chance,), 3) for _ in works]
    )
    found = run_fuzz(BODIES)

    # What the damage left whole is answered.
    assert [(status, body) for status, _, body in found if status != 200 and not 400 <= status < 500] == []
    assert [answer for _, answer, _ in found if LEAKS.search(answer)] == []
    assert sum(400 <= status < 500 for status, _, _ in found) > BODIES / 2


def test_the_search_for_leaks_finds_them():
    assert LEAKS.search(b"cannot identify image file <_io.BytesIO object at 0x7f0012>")
    assert LEAKS.search(b'File "/work/x.py", line 3, in f\nValueError: bad')


@pytest.mark.parametrize("raw", RAW)
@pytest.mark.parametrize("path", SEEDS)
def test_a_body_that_is_no_json_object_is_refused(path: str, raw: bytes):
    async def main() -> tuple[int, bytes]:
        service = Service(lambda: engine_of(StandInModel()))
        app = build_app(service, None)
        async with service.running():
            while not service.is_ready:
                await asyncio.sleep(0.001)
            return await ask(app, path, raw)

    status, answer = asyncio.run(main())
    assert status == 400
    assert json.loads(answer)["error"]["code"] == "invalid_request"
