"""The service under load: capacity, steady load, overload, slow clients; latencies, refusals, memory and recovery.

The load is open: requests leave on a schedule that does not wait for answers, and a latency counts from the moment at
which a request was due. A client that waits would slow down with the service and hide its queue. The service runs in a
process of its own, its model in another, and so does this one; `--pin` gives the model a core. Run it with

    python -m benchmarks.serving_load --json serving_load.json
    python -m benchmarks.serving_load --quick
"""

import argparse
import asyncio
import base64
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

MIB = 2**20
KEPT_SECONDS = 3.0  # the service closes connections that are idle for five
HEAD = b"POST /v1/judge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@dataclass(frozen=True)
class Answer:
    """One request: when it was due, how long it took, and how it ended (0 for a broken connection)."""

    due: float
    seconds: float
    status: int


@dataclass
class Connections:
    """Kept-alive connections to the service, opened when none is free."""

    port: int
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = field(default_factory=list)

    async def post(self, body: bytes) -> int:
        """The status of one request; 0 when the connection broke."""
        reader, writer = self._newest() or await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"content-length: (\d+)", answer, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return 0
        self.free.append((reader, writer, time.perf_counter()))
        return int(answer.split()[1])

    def _newest(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A free connection that the service has not closed, nor will while a request is on its way."""
        while self.free:
            reader, writer, since = self.free.pop()
            if time.perf_counter() - since < KEPT_SECONDS and not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def close(self) -> None:
        """Close what is open."""
        for _, writer, _ in self.free:
            writer.close()


def bodies(side: int, count: int = 64) -> list[bytes]:
    """Different pairs of pictures, so that nothing is shared between requests."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        uris = []
        for _ in range(2):
            file = BytesIO()
            small = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
            Image.fromarray(small).resize((side, side)).save(file, "PNG")
            uris.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
        text = {"prompt": f"a red circle number {number}", "candidate": uris[0], "reference_images": [uris[1]]}
        found.append(json.dumps(text).encode())
    return found


async def timed(connections: Connections, body: bytes, due: float) -> Answer:
    status = await connections.post(body)
    return Answer(due, time.perf_counter() - due, status)


async def closed_loop(port: int, texts: list[bytes], clients: int, seconds: float) -> float:
    """Answers a second when `clients` ask without a pause: the capacity."""
    connections, end = Connections(port), time.perf_counter() + seconds
    done = 0

    async def ask() -> None:
        nonlocal done
        while time.perf_counter() < end:
            answer = await timed(connections, random.choice(texts), time.perf_counter())
            done += answer.status == 200
            if answer.status != 200:
                await asyncio.sleep(1)  # asking again at once would take the service's time

    start = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(clients)))
    connections.close()
    return done / (time.perf_counter() - start)


async def open_loop(port: int, texts: list[bytes], rate: float, seconds: float, seed: int = 0) -> list[Answer]:
    """Requests at random moments, `rate` a second on average, whatever becomes of the earlier ones."""
    rng, connections = random.Random(seed), Connections(port)
    start = time.perf_counter()
    due, tasks = start, []
    while due < start + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(timed(connections, rng.choice(texts), due)))
        due += rng.expovariate(rate)
    answers = await asyncio.gather(*tasks)
    connections.close()
    return list(answers)


async def slow_clients(port: int, count: int, seconds: float) -> int:
    """Clients that send a byte now and then, half of them in the head and half in the body; how many were cut off."""
    cut_off = 0

    async def drip(number: int) -> None:
        nonlocal cut_off
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(HEAD + (b"Content-Length: 100000\r\n\r\n" if number % 2 else b""))
                while time.perf_counter() < end:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.5)
                writer.close()
            except OSError:
                cut_off += 1

    await asyncio.gather(*(drip(number) for number in range(count)))
    return cut_off


def figures(answers: list[Answer], seconds: float) -> dict[str, object]:
    good = sorted(answer.seconds for answer in answers if answer.status == 200)
    refused = sorted(answer.seconds for answer in answers if answer.status in (429, 503))
    return {
        "sent": len(answers),
        "statuses": dict(sorted(Counter(answer.status for answer in answers).items())),
        "goodput_per_second": len(good) / seconds,
        "answered_seconds": quantiles(good),
        "refused_seconds": quantiles(refused),
    }


def quantiles(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    place = {name: values[min(len(values) - 1, int(share * len(values)))] for name, share in QUANTILES.items()}
    return {**place, "max": values[-1]}


QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass
class Memory:
    """Resident size of the service and of its engine's process together, watched while something runs."""

    process: psutil.Process
    seen: list[int] = field(default_factory=list)

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            family = (self.process, *self.process.children(recursive=True))
            self.seen.append(sum(one.memory_info().rss for one in family))
            await asyncio.sleep(0.1)


async def measured(memory: Memory, work: Awaitable[list[Answer]]) -> tuple[list[Answer], dict[str, float]]:
    memory.seen.clear()
    watching = asyncio.create_task(memory.watch())
    result = await work
    watching.cancel()
    seen = memory.seen
    return result, {"first_mib": seen[0] / MIB, "highest_mib": max(seen) / MIB, "last_mib": seen[-1] / MIB}


async def recovery(port: int, texts: list[bytes], usual: float) -> float:
    """Seconds after an overload until five answers in a row take no more than twice the usual time."""
    start, good = time.perf_counter(), 0
    connections = Connections(port)
    while good < 5 and time.perf_counter() - start < 60:
        answer = await timed(connections, texts[0], time.perf_counter())
        good = good + 1 if answer.status == 200 and answer.seconds <= 2 * usual else 0
    connections.close()
    return time.perf_counter() - start


async def campaign(port: int, process: psutil.Process, options: argparse.Namespace) -> dict[str, object]:
    texts, memory = bodies(options.side), Memory(process)
    await closed_loop(port, texts, 16, options.warm_seconds)
    capacity = statistics.median([await closed_loop(port, texts, 24, options.capacity_seconds) for _ in range(3)])
    found: dict[str, object] = {"capacity_per_second": capacity}
    for name, share, seconds in (
        ("steady_80_percent", 0.8, options.steady_seconds),
        ("overload_5x", 5.0, options.overload_seconds),
    ):
        answers, resident = await measured(memory, open_loop(port, texts, share * capacity, seconds))
        found[name] = {**figures(answers, seconds), "memory": resident}
        if name == "overload_5x":
            usual = found["steady_80_percent"]["answered_seconds"]["p99"]  # type: ignore[index]
            found["recovery_seconds"] = await recovery(port, texts, usual)
    rate, seconds = 0.5 * capacity, options.slow_seconds
    found["healthy_alone"] = figures(await open_loop(port, texts, rate, seconds), seconds)
    dripping = asyncio.create_task(slow_clients(port, 200, seconds + 2))
    await asyncio.sleep(1)
    found["healthy_beside_200_slow"] = figures(await open_loop(port, texts, rate, seconds), seconds)
    found["slow_connections_cut_off"] = await dripping
    found["summary"] = summary(found)
    return found


def summary(found: dict[str, object]) -> dict[str, object]:
    """The figures that the service promises, beside their limits."""
    steady, overload = found["steady_80_percent"], found["overload_5x"]
    alone, beside = found["healthy_alone"], found["healthy_beside_200_slow"]
    assert isinstance(steady, dict)
    assert isinstance(overload, dict)
    assert isinstance(alone, dict)
    assert isinstance(beside, dict)
    refused = overload["refused_seconds"]
    return {
        "steady_errors": steady["sent"] - steady["statuses"].get(200, 0),
        "steady_p99_seconds": steady["answered_seconds"]["p99"],
        "overload_goodput_share_of_capacity": overload["goodput_per_second"] / found["capacity_per_second"],
        "overload_refused_p99_seconds": None if refused is None else refused["p99"],
        "overload_growth_mib": overload["memory"]["highest_mib"] - overload["memory"]["first_mib"],
        "recovery_seconds": found["recovery_seconds"],
        "slow_clients_p99_ratio": beside["answered_seconds"]["p99"] / alone["answered_seconds"]["p99"],
    }


def start_service(options: argparse.Namespace) -> tuple[subprocess.Popen[str], int]:
    command = [
        sys.executable,
        "-m",
        "rewarddance",
        "serve",
        options.model,
        "--port",
        "0",
        "--queue",
        str(options.queue),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    line = process.stderr.readline()
    return process, int(line.rsplit(":", 1)[1])


async def until_ready(port: int) -> None:
    for _ in range(1_200):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        if b" 200 " in answer.split(b"\r\n")[0]:
            return
        await asyncio.sleep(0.5)
    raise SystemExit("the service did not become ready")


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lab:small")
    parser.add_argument("--side", type=int, default=64, help="pixels of a side of every picture")
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="threads of the model")
    parser.add_argument("--pin", action="store_true", help="engine on core 0, the rest on core 1")
    parser.add_argument("--quick", action="store_true", help="a few seconds of everything")
    parser.add_argument("--steady-seconds", type=float, default=300.0)
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--slow-seconds", type=float, default=60.0)
    parser.add_argument("--capacity-seconds", type=float, default=20.0)
    parser.add_argument("--warm-seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.quick:
        options.steady_seconds, options.overload_seconds, options.slow_seconds = 10.0, 5.0, 5.0
        options.capacity_seconds, options.warm_seconds = 3.0, 2.0
    return options


def main() -> None:
    options = options_of()
    process, port = start_service(options)
    try:
        asyncio.run(until_ready(port))
        if options.pin:
            for one in psutil.Process(process.pid).children(recursive=True):
                os.sched_setaffinity(one.pid, {0})
            os.sched_setaffinity(process.pid, {1})
            os.sched_setaffinity(0, {1})
        found = asyncio.run(campaign(port, psutil.Process(process.pid), options))
    finally:
        process.terminate()
        process.wait(60)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    settings = {name: str(value) for name, value in vars(options).items() if name != "json"}
    text = json.dumps({**found, "exit_code": process.returncode, "settings": settings, "machine": machine}, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
