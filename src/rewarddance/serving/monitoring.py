"""Figures of the service in the text format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Monitoring:
    """Counters of one service; labels come from closed lists, so their number is bounded."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "rewarddance_requests", "Requests by route and outcome", ["route", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "rewarddance_request_seconds", "From head to answer", ["route"], buckets=_SECONDS, registry=registry
        )
        self._batches = Histogram(
            "rewarddance_batch_comparisons", "Comparisons judged together", buckets=_SIZES, registry=registry
        )
        self._engine = Counter("rewarddance_engine_seconds", "Time in the engine", registry=registry)
        self._waiting = Gauge("rewarddance_waiting_comparisons", "Comparisons in the queue", registry=registry)
        self._running = Gauge("rewarddance_running_comparisons", "Comparisons in the engine", registry=registry)
        self._buffered = Gauge("rewarddance_buffered_bytes", "Bytes of bodies held", registry=registry)
        self._ready = Gauge("rewarddance_ready", "1 when requests are taken", registry=registry)

    def request(self, route: str, outcome: str, seconds: float) -> None:
        """Count a request.

        Args:
            route: Template of the route, not the path that was asked.
            outcome: `ok`, or the code of the refusal.
            seconds: From head to answer.
        """
        self._requests.labels(route, outcome).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, comparisons: int, seconds: float) -> None:
        """Count a batch of the engine."""
        self._batches.observe(comparisons)
        self._engine.inc(seconds)

    def page(self, waiting: int, running: int, buffered_bytes: int, is_ready: bool) -> bytes:
        """The text that a scraper reads."""
        self._waiting.set(waiting)
        self._running.set(running)
        self._buffered.set(buffered_bytes)
        self._ready.set(is_ready)
        return generate_latest(self._registry)
