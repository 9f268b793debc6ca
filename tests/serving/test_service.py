import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rewarddance.serving.fetching import Fetcher, Origin
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.overload import OverloadGate
from rewarddance.serving.plans import Planner
from rewarddance.serving.service import Service
from tests.serving.stand_in import Running, StandInModel, data_uri, judge_body, png, running, wait_until


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running() as here:
        yield here


def test_a_judgement_has_a_score_and_the_name_of_the_model(served: Running):
    reply = served.post("/v1/judge", judge_body("12345"))

    assert reply.status == 200
    assert reply.body == {
        "score": 0.5,
        "reward": 5.0,
        "order_gap": None,
        "leaked_mass": None,
        "instruction": None,
        "model": "stand-in",
    }


def test_a_form_is_the_same_as_json(served: Running):
    form = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % part
        for part in [
            (b"request", b"", b'{"prompt": "abc", "candidate": "part:one", "reference_images": ["part:two"]}'),
            (b"one", b'; filename="1.png"', png()),
            (b"two", b'; filename="2.png"', png("blue")),
        ]
    )

    reply = served.ask(
        "POST", "/v1/judge", form + b"--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}
    )

    assert (reply.status, reply.body["reward"]) == (200, 3.0)


def test_a_ranking_is_answered(served: Running):
    reply = served.post("/v1/rank", {"prompt": "a", "candidates": [data_uri(png())] * 3})

    assert (reply.status, reply.body["order"], reply.body["failed_comparisons"]) == (200, [0, 1, 2], 0)


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        ({"candidate": None}, 400, "invalid_request", "candidate"),
        ({"prompt": 3}, 400, "invalid_request", "prompt"),
        ({"0xdeadbeef": 3}, 400, "invalid_request", None),
        ({"deadline_seconds": -1}, 400, "invalid_request", "deadline_seconds"),
        ({"prompt": "a" * 9_000}, 422, "too_long", "prompt"),
        ({"instruction": "/etc/passwd"}, 422, "unknown_instruction", "instruction"),
        ({"instruction": "../overall.yaml"}, 422, "unknown_instruction", "instruction"),
        ({"reference_images": []}, 422, "reference_required", "reference_images"),
        ({"reference_images": [data_uri(png())] * 9}, 422, "too_many_media", "reference_images"),
        ({"candidate": "/etc/passwd"}, 422, "invalid_media_reference", "candidate"),
        ({"candidate": "file:///etc/passwd"}, 422, "invalid_media_reference", "candidate"),
        ({"candidate": "part:missing"}, 422, "invalid_media_reference", "candidate"),
        ({"candidate": "data:image/png;base64,@@@"}, 422, "invalid_media_reference", "candidate"),
        ({"candidate": data_uri(b"<html>")}, 422, "unreadable_media", "candidate"),
        ({"candidate": data_uri(b"")}, 422, "unreadable_media", "candidate"),
        ({"prompt": "long"}, 422, "too_long", None),
    ],
)
def test_what_cannot_be_judged_is_refused_with_its_code(served: Running, change, status: int, code: str, field):
    reply = served.post("/v1/judge", {name: value for name, value in judge_body(**change).items() if value is not None})

    assert (reply.status, reply.code, reply.body["error"]["field"]) == (status, code, field)


def test_a_ranking_of_too_many_is_refused(served: Running):
    reply = served.post("/v1/rank", {"prompt": "a", "candidates": [data_uri(png())] * 17})

    assert (reply.status, reply.code) == (422, "too_many_media")


@pytest.mark.parametrize(
    "change",
    [
        {"stream": True},
        {"n": 2},
        {"messages": [{"role": "system", "content": "obey"}, {"role": "user", "content": "a"}]},
    ],
)
def test_a_chat_that_would_be_answered_otherwise_than_asked_is_refused(served: Running, change):
    body = {"messages": [{"role": "user", "content": "is this good?"}], **change}

    assert served.post("/v1/chat/completions", body).code == "unsupported"


def test_a_failure_of_the_model_shows_nothing_of_its_words(served: Running):
    reply = served.post("/v1/judge", judge_body("explode"))

    assert (reply.status, reply.code) == (500, "engine_failed")
    assert "0x" not in str(reply.body)


def test_a_route_that_does_not_exist_is_an_error_of_the_same_shape(served: Running):
    assert (served.get("/nothing").code, served.get("/v1/judge").code) == ("not_found", "method_not_allowed")


def test_the_document_names_every_route_and_schema(served: Running):
    document = served.get("/openapi.json").body

    assert {"/v1/judge", "/v1/rank", "/v1/chat/completions", "/health", "/ready", "/metrics"} <= set(document["paths"])
    assert {"JudgeBody", "RankBody", "ChatBody", "ImagePart", "JudgeAnswer"} <= set(document["components"]["schemas"])


def test_metrics_count_answers_and_refusals_by_route(served: Running):
    served.post("/v1/judge", judge_body())
    served.post("/v1/judge", {})
    page = served.get("/metrics").body.decode()

    assert 'rewarddance_requests_total{outcome="ok",route="/v1/judge"}' in page
    assert 'rewarddance_requests_total{outcome="invalid_request",route="/v1/judge"}' in page


def test_requests_that_wait_are_judged_together():
    model = StandInModel()
    model.gate.clear()
    with running(model) as here, ThreadPoolExecutor(6) as threads:
        first = threads.submit(here.post, "/v1/judge", judge_body("first"))
        wait_until(lambda: here.service._queue.running == 1)
        others = [threads.submit(here.post, "/v1/judge", judge_body(f"other {n}")) for n in range(5)]
        wait_until(lambda: here.service._queue.waiting == 5)
        model.gate.set()

        assert [one.result().status for one in [first, *others]] == [200] * 6
    assert [len(batch) for batch in model.batches] == [1, 5]


def test_a_request_that_breaks_the_model_does_not_break_its_neighbours():
    model = StandInModel()
    model.gate.clear()
    with running(model) as here, ThreadPoolExecutor(5) as threads:
        first = threads.submit(here.post, "/v1/judge", judge_body("first"))
        wait_until(lambda: here.service._queue.running == 1)
        prompts = ["a", "explode", "b", "c"]
        others = [threads.submit(here.post, "/v1/judge", judge_body(prompt)) for prompt in prompts]
        wait_until(lambda: here.service._queue.waiting == 4)
        model.gate.set()

        assert [one.result().status for one in [first, *others]] == [200, 200, 500, 200, 200]


def test_a_full_queue_refuses_before_the_body_is_read_and_says_when_to_return():
    model, limits = StandInModel(), ServiceLimits(queue_comparisons=2, drain_seconds=0.0)
    model.gate.clear()
    with running(model, limits) as here, ThreadPoolExecutor(3) as threads:
        taken = [threads.submit(here.post, "/v1/judge", judge_body())]
        wait_until(lambda: here.service._queue.running == 1)
        taken += [threads.submit(here.post, "/v1/judge", judge_body()) for _ in range(2)]
        wait_until(lambda: here.service._queue.is_full)
        # Only the head is sent: an answer shows that nobody waits for the body.
        refused = here.ask("POST", "/v1/judge", None, {"content-type": "application/json", "content-length": "1000"})
        model.gate.set()

        assert (refused.status, refused.code) == (429, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert [one.result().status for one in taken] == [200] * 3


def test_nobody_waits_for_the_reading_of_a_body_only_to_be_refused(monkeypatch: pytest.MonkeyPatch):
    limits = ServiceLimits(queue_comparisons=2, drain_seconds=0.0)
    goes_on, plan = threading.Event(), Planner.judge
    monkeypatch.setattr(Planner, "judge", lambda self, body: goes_on.wait(20) and plan(self, body))
    with running(limits=limits) as here, ThreadPoolExecutor(2) as threads:
        taken = [threads.submit(here.post, "/v1/judge", judge_body()) for _ in range(2)]
        wait_until(lambda: here.service._queue.coming == 2)
        refused = here.post("/v1/judge", judge_body())
        goes_on.set()

        assert (refused.status, refused.code) == (429, "busy")
        assert [one.result().status for one in taken] == [200, 200]


def test_a_stranger_does_not_learn_that_the_queue_is_full():
    model, limits = StandInModel(), ServiceLimits(queue_comparisons=1, drain_seconds=0.0)
    model.gate.clear()
    token = "a-token-of-sixteen-or-more"
    with running(model, limits, token) as here, ThreadPoolExecutor(2) as threads:
        own = {"authorization": f"Bearer {token}"}
        taken = [threads.submit(here.post, "/v1/judge", judge_body(), **own)]
        wait_until(lambda: here.service._queue.running == 1)
        taken.append(threads.submit(here.post, "/v1/judge", judge_body(), **own))
        wait_until(lambda: here.service._queue.is_full)
        stranger, friend = here.post("/v1/judge", judge_body()), here.post("/v1/rank", {}, **own)
        other, missing = here.post("/health", {}, **own), here.post("/v1/judge/", {}, **own)
        page = here.ask("GET", "/metrics", None, own).body.decode()
        model.gate.set()

        assert (stranger.status, friend.status, other.status, missing.status) == (401, 429, 405, 404)
        assert 'rewarddance_requests_total{outcome="busy",route="/v1/rank"} 1.0' in page
        assert [one.result().status for one in taken] == [200, 200]


@pytest.mark.parametrize("has_gate", [True, False])
def test_the_gate_in_front_of_the_application_spares_it_the_refusals(has_gate: bool, monkeypatch: pytest.MonkeyPatch):
    if not has_gate:
        monkeypatch.setattr(OverloadGate, "_refusal", lambda self, scope: None)
    asked = []
    monkeypatch.setattr(Service, "check_ready", lambda self: asked.append(1) or self.engine.facts)
    model, limits = StandInModel(), ServiceLimits(queue_comparisons=1, drain_seconds=0.0)
    model.gate.clear()
    with running(model, limits) as here, ThreadPoolExecutor(2) as threads:
        taken = [threads.submit(here.post, "/v1/judge", judge_body())]
        wait_until(lambda: here.service._queue.running == 1)
        taken.append(threads.submit(here.post, "/v1/judge", judge_body()))
        wait_until(lambda: here.service._queue.is_full)
        before = len(asked)
        refused = [here.post("/v1/judge", judge_body()) for _ in range(5)]
        reached = len(asked) - before
        model.gate.set()
        assert [one.result().status for one in taken] == [200, 200]

    assert [(one.status, one.code) for one in refused] == [(429, "busy")] * 5
    assert reached == (0 if has_gate else 5)


def test_a_request_is_given_up_at_its_own_deadline_and_never_later_than_the_services():
    model, limits = StandInModel(), ServiceLimits(deadline_seconds=0.3, drain_seconds=0.0)
    model.gate.clear()
    with running(model, limits) as here:
        start = time.monotonic()
        late = here.post("/v1/judge", judge_body(deadline_seconds=60))
        seconds = time.monotonic() - start
        model.gate.set()

    assert (late.status, late.code) == (504, "deadline_exceeded")
    assert seconds < 5


def test_work_of_a_client_that_hung_up_is_not_done():
    model = StandInModel()
    model.gate.clear()
    with running(model) as here, ThreadPoolExecutor(1) as threads:
        first = threads.submit(here.post, "/v1/judge", judge_body("first"))
        wait_until(lambda: here.service._queue.running == 1)
        impatient = threading.Thread(target=hang_up, args=(here, judge_body("nobody waits")))
        impatient.start()
        impatient.join()
        wait_until(lambda: here.service._budget.held < 2_000)
        model.gate.set()
        first.result()
        assert here.post("/v1/judge", judge_body("last")).status == 200

    assert model.batches == [["first"], ["last"]]


def hang_up(here: Running, body: dict[str, object]) -> None:
    import http.client
    import json

    connection = http.client.HTTPConnection("127.0.0.1", here.port)
    connection.request("POST", "/v1/judge", json.dumps(body), {"content-type": "application/json"})
    wait_until(lambda: here.service._queue.waiting == 1)
    connection.close()


def test_a_repeated_request_id_gets_the_answer_without_new_work():
    model = StandInModel()
    with running(model) as here:
        replies = [here.post("/v1/judge", judge_body("once"), x_request_id="retry-0001") for _ in range(3)]

    assert [reply.body["reward"] for reply in replies] == [4.0] * 3
    assert model.batches == [["once"]]


def test_a_repeated_request_id_joins_the_work_in_progress():
    model = StandInModel()
    model.gate.clear()
    with running(model) as here, ThreadPoolExecutor(2) as threads:
        asked = [
            threads.submit(here.post, "/v1/judge", judge_body("once"), x_request_id="retry-0002") for _ in range(2)
        ]
        wait_until(lambda: here.service._queue.running == 1)
        time.sleep(0.1)
        model.gate.set()
        assert [one.result().status for one in asked] == [200, 200]

    assert model.batches == [["once"]]


def test_another_body_under_a_known_request_id_is_refused(served: Running):
    served.post("/v1/judge", judge_body("one"), x_request_id="retry-0003")

    assert served.post("/v1/judge", judge_body("two"), x_request_id="retry-0003").code == "request_id_reused"


def test_a_failure_is_not_remembered(served: Running):
    codes = [served.post("/v1/judge", judge_body("explode"), x_request_id="retry-0004").code for _ in range(2)]

    assert codes == ["engine_failed"] * 2


def test_a_service_without_its_model_is_alive_but_not_ready():
    gate = threading.Event()
    from rewarddance.serving.service import Service
    from tests.serving.stand_in import engine_of

    service = Service(lambda: (gate.wait(20), engine_of(StandInModel()))[1])
    assert not service.is_ready
    with pytest.raises(Exception, match="not loaded yet"):
        service.check_ready()
    gate.set()


def test_a_draining_service_answers_what_it_took_and_takes_nothing_new():
    model, limits = StandInModel(), ServiceLimits(drain_seconds=0.5)
    model.gate.clear()
    with running(model, limits) as here, ThreadPoolExecutor(1) as threads:
        taken = threads.submit(here.post, "/v1/judge", judge_body("taken"))
        wait_until(lambda: here.service._queue.running == 1)
        here.stop()
        wait_until(lambda: here.service.is_draining)
        ready, new = here.get("/ready"), here.post("/v1/judge", judge_body("new"))
        model.gate.set()
        answer = taken.result()
        here.thread.join(20)

        assert (ready.status, ready.code, new.code) == (503, "draining", "draining")
        assert (answer.status, answer.body["reward"]) == (200, 5.0)
        assert not here.thread.is_alive()


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "a", "candidate": "b", "reference_images": [' + b"1," * 500_000 + b"1]}",
        b'{"prompt": "a", "candidate": "b"' + b"".join(b',"%x":1' % number for number in range(200_000)) + b"}",
    ],
    ids=["a long list", "many names"],
)
def test_a_body_of_many_small_mistakes_costs_no_more_than_one_of_few(served: Running, body: bytes):
    # Each mistake would get a description of about a kilobyte: this body takes many seconds without the bound.
    start = time.process_time()
    reply = served.ask("POST", "/v1/judge", body, {"content-type": "application/json"})

    assert (reply.status, reply.code) == (400, "invalid_request")
    assert time.process_time() - start < 1


def test_a_prompt_of_commas_is_a_prompt(served: Running):
    assert served.post("/v1/judge", judge_body("," * 8_000)).status == 200


def test_media_that_were_fetched_are_paid_for_out_of_the_common_budget():
    # Five media of 600 KiB, which the small body only names, do not fit into a budget of 2 MiB.
    class Site(Fetcher):
        def fetch(self, address: str) -> bytes:
            return png() + bytes(600 * 1_024)

    limits = ServiceLimits(max_buffered_bytes=2 * 2**20, drain_seconds=0.0)
    address = "http://media.example.org/a.png"
    with running(limits=limits, fetcher=Site(frozenset({Origin.parse("http://media.example.org")}))) as here:
        few = here.post("/v1/judge", {"prompt": "a", "candidate": address, "reference_images": [address]})
        many = here.post("/v1/judge", {"prompt": "a", "candidate": address, "reference_images": [address] * 4})
        assert here.service._budget.held == 0

    assert (few.status, many.status, many.code) == (200, 429, "busy")


class LostDevice(StandInModel):
    """Its first batch fails as an illegal access on a GPU does."""

    def judge(self, requests, order_mode=None):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_a_service_that_lost_its_device_is_not_healthy():
    with running(LostDevice()) as here:
        healthy = here.get("/health")
        failed = here.post("/v1/judge", judge_body())
        broken = here.get("/health")

    assert (healthy.status, failed.code, broken.status, broken.code) == (200, "engine_failed", 500, "engine_failed")


def test_a_failure_of_one_request_leaves_the_service_healthy(served: Running):
    served.post("/v1/judge", judge_body("explode"))

    assert served.get("/health").status == 200
