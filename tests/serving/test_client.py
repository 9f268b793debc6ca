import base64
import http.server
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rewarddance.core.errors import MediaError, RewardError, UsageError
from rewarddance.core.media import load_image
from rewarddance.core.types import Judgement, JudgementRequest, Status
from rewarddance.serving.client import ClientSettings, ScoringClient
from rewarddance.serving.limits import ServiceLimits
from rewarddance.serving.trainer_rewards import TrainerReward, pictures
from tests.serving.stand_in import StandInModel, png, running

_clients: list[ScoringClient] = []


def client_of(url: str, token: str | None = None, settings: ClientSettings | None = None) -> ScoringClient:
    _clients.append(ScoringClient(url, token, settings or FAST))
    return _clients[-1]


@pytest.fixture(autouse=True)
def closed_clients() -> Iterator[None]:
    yield
    while _clients:
        _clients.pop().close()


FAST = ClientSettings(attempts=4, timeout_seconds=2.0, back_off_seconds=0.01, max_back_off_seconds=0.05, concurrency=4)
GOOD = {"score": 0.75, "reward": 1.1, "order_gap": 0.1, "leaked_mass": None, "instruction": "overall", "model": "m"}
HUGE = json.dumps(GOOD | {"reward": 10**400}).encode()
REQUEST = JudgementRequest("a cat", png(), png("blue"), id="7")


@contextmanager
def serving(
    answer: Callable[[int, str | None], tuple[int, Any, dict[str, str]] | None],
) -> Iterator[tuple[str, list[Any]]]:
    """A server that answers the n-th request as it is told; None hangs up."""
    seen: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.headers.get("x-request-id"), json.loads(body), self.headers.get("authorization")))
            found = answer(len(seen), self.headers.get("x-request-id"))
            if found is None:
                self.close_connection = True
                return
            status, value, headers = found
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()


def error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "x", "field": None}}


def test_judgements_come_back_in_order_with_their_ids():
    with running(StandInModel()) as here:
        client = client_of(here.url)
        requests = [JudgementRequest("x" * n, png(), png("blue"), id=str(n)) for n in range(1, 9)]
        judgements = client.judge(requests)

    assert [judgement.reward for judgement in judgements] == [float(n) for n in range(1, 9)]
    assert [judgement.id for judgement in judgements] == [str(n) for n in range(1, 9)]


def test_a_ranking_comes_back():
    with running(StandInModel()) as here:
        assert client_of(here.url).rank("a", [png(), png("blue")]).order == (0, 1)


def test_pairs_that_failed_on_the_service_are_counted():
    ranking = {"order": [1, 0], "wins": [0.0, None], "rewards": [0.0, None], "failed_comparisons": 3}
    with serving(lambda n, _: (200, ranking, {})) as (url, _):
        assert client_of(url).rank("a", [png(), png("blue")]).failed_judgements == 3
    del ranking["failed_comparisons"]
    with serving(lambda n, _: (200, ranking, {})) as (url, _), pytest.raises(RewardError, match="not a ranking"):
        client_of(url).rank("a", [png(), png("blue")])


def test_a_busy_service_is_asked_again_under_the_same_id():
    with serving(lambda n, _: (429, error("busy"), {"retry-after": "0"}) if n < 3 else (200, GOOD, {})) as (url, seen):
        judgement = client_of(url).judge([REQUEST])[0]

    assert (judgement.status, judgement.reward, judgement.id) == (Status.OK, 1.1, "7")
    assert len(seen) == 3
    assert len({request_id for request_id, _, _ in seen}) == 1


def test_a_lost_reply_is_not_judged_twice():
    # The service hangs up after the work is done; the client asks again, and the model has worked once.
    model = StandInModel()
    with running(model) as here, serving(lambda n, request_id: relay(here, n, request_id, seen)) as (url, seen):
        judgement = client_of(url).judge([REQUEST])[0]

    assert judgement.reward == 5.0
    assert model.batches == [["a cat"]]


def relay(here, number: int, request_id: str | None, seen: Sequence[Any]):
    reply = here.post("/v1/judge", seen[-1][1], x_request_id=request_id)
    return None if number == 1 else (reply.status, reply.body, {})


@pytest.mark.parametrize("hostile", [b"", b"not json", b"[" * 100_000, b"[1]", b'{"score": 1}', HUGE])
def test_an_answer_that_is_no_score_is_a_failure(hostile: bytes):
    with serving(lambda n, _: (200, hostile, {})) as (url, _):
        judgement = client_of(url).judge([REQUEST])[0]

    assert (judgement.status, judgement.score, judgement.reward) == (Status.FAILED, None, None)


@pytest.mark.parametrize(
    "change", [{"reward": float("nan")}, {"reward": float("inf")}, {"score": 1.5}, {"score": True}, {"reward": "1"}]
)
def test_a_number_that_cannot_be_one_is_a_failure(change: dict[str, Any]):
    with serving(lambda n, _: (200, GOOD | change, {})) as (url, _):
        assert client_of(url).judge([REQUEST])[0].status is Status.FAILED


@pytest.mark.parametrize(
    ("code", "status"),
    [("unreadable_media", "unreadable_media"), ("too_long", "too_long"), ("media_too_large", "failed")],
)
def test_a_refusal_is_typed_and_not_asked_again(code: str, status: str):
    with serving(lambda n, _: (422, error(code), {})) as (url, seen):
        judgement = client_of(url).judge([REQUEST])[0]

    assert (judgement.status.value, judgement.reward, len(seen)) == (status, None, 1)


def test_a_service_that_never_answers_is_a_failure_after_so_many_tries():
    with serving(lambda n, _: None) as (url, seen):
        judgement = client_of(url).judge([REQUEST])[0]

    assert (judgement.status, len(seen)) == (Status.UNANSWERED, 4)
    assert "no_answer" in str(judgement.message)


def test_a_wrong_token_stops_the_caller_instead_of_failing_every_judgement():
    with running(token="a-token-of-sixteen-or-more") as here:
        with pytest.raises(UsageError, match="check address and token"):
            client_of(here.url, "wrong").judge([REQUEST])

        assert client_of(here.url, "a-token-of-sixteen-or-more").judge([REQUEST])[0].is_ok


def test_the_token_is_not_shown():
    assert "secret" not in repr(ScoringClient("http://127.0.0.1", "secret-of-sixteen-letters"))


def test_a_missing_file_fails_alone(tmp_path: Path):
    with running(StandInModel()) as here:
        requests = [JudgementRequest("a", tmp_path / "none.png", png()), REQUEST]
        judgements = client_of(here.url).judge(requests)

    assert [judgement.status for judgement in judgements] == [Status.UNREADABLE_MEDIA, Status.OK]


def test_a_client_knows_whether_the_service_is_ready():
    with running(StandInModel()) as here:
        assert client_of(here.url).is_ready()
    assert not client_of(here.url).is_ready()


def test_more_requests_than_the_queue_holds_are_all_answered():
    limits = ServiceLimits(queue_comparisons=2, batch_comparisons=1, drain_seconds=0.0)
    with running(StandInModel(), limits) as here:
        patient = ClientSettings(attempts=50, back_off_seconds=0.01, max_back_off_seconds=0.05, concurrency=8)
        judgements = client_of(here.url, settings=patient).judge([REQUEST] * 40)

    assert all(judgement.is_ok for judgement in judgements)


class Recorder:
    """Rewards the mean of the red channel, and keeps what it was asked."""

    def __init__(self, fails: bool = False) -> None:
        self.requests: list[JudgementRequest] = []
        self.fails = fails

    def judge(self, requests: Sequence[JudgementRequest]) -> list[Judgement]:
        self.requests += requests
        if self.fails:
            return [Judgement(Status.FAILED, message="the service answered busy") for _ in requests]
        return [
            Judgement(Status.OK, score=0.5, reward=float(np.asarray(one.candidate)[..., 0].mean())) for one in requests
        ]


HALF_RED = torch.stack([torch.full((4, 4), 0.5), torch.zeros(4, 4), torch.ones(4, 4)])


@pytest.mark.parametrize(
    "images",
    [
        HALF_RED[None],
        (HALF_RED[None] * 255).round().to(torch.uint8),
        (HALF_RED.permute(1, 2, 0)[None] * 255).round().to(torch.uint8).numpy(),
        HALF_RED.numpy()[None],
        [Image.new("RGB", (4, 4), (128, 0, 255))],
        [HALF_RED],
    ],
    ids=["tensor", "bytes tensor", "bytes array", "array", "pictures", "list of tensors"],
)
def test_images_of_every_trainer_become_the_same_picture(images):
    picture = pictures(images)

    assert np.asarray(picture[0]).tolist() == [[[128, 0, 255]] * 4] * 4


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 4, 4, 4),
        torch.zeros(4, 4),
        torch.full((1, 3, 4, 4), torch.nan),
        2 * HALF_RED[None] - 1,
    ],
    ids=["clips", "one channel", "not finite", "in [-1, 1]"],
)
def test_what_is_no_image_is_refused(images):
    with pytest.raises(UsageError):
        pictures(images)


def test_the_shape_of_flow_grpo_gives_scores_and_a_dict():
    scores, details = TrainerReward(Recorder())(HALF_RED[None].repeat(2, 1, 1, 1), ["a", "b"], [{}, {}])

    assert scores.tolist() == [128.0, 128.0]
    assert details == {}


async def _score(reward: TrainerReward, **info: Any) -> dict[str, float]:
    return await reward.compute_score("set", HALF_RED, "the prompt", info)


def test_the_shape_of_verl_omni_gives_a_score():
    import asyncio

    judge = Recorder()
    found = asyncio.run(_score(TrainerReward(judge), prompt="a better prompt"))

    assert found == {"score": 128.0}
    assert judge.requests[0].prompt == "a better prompt"


def test_the_shape_of_unirl_has_one_success_a_reward():
    request = SimpleNamespace(images=[HALF_RED, HALF_RED], prompts=["a", "b"], metadata=None)
    response = TrainerReward(Recorder()).compute_rewards(request)

    assert (response.rewards, response.successes, response.errors) == ([128.0] * 2, [True] * 2, [None] * 2)


def test_references_come_from_the_metadata_or_by_prompt():
    judge = Recorder()
    reward = TrainerReward(judge, {"a": b"of the prompt", "b": b"of the prompt"})
    reward([HALF_RED, HALF_RED], ["a", "b"], [{}, {"reference_image": b"of the sample"}])

    assert [request.reference_image for request in judge.requests] == [b"of the prompt", b"of the sample"]


@pytest.mark.parametrize("shape", ["flow_grpo", "unirl"])
def test_a_failed_judgement_is_raised_and_never_zero(shape: str):
    reward = TrainerReward(Recorder(fails=True))
    with pytest.raises(RewardError, match="1 of 1 images got no reward: the service answered busy"):
        if shape == "flow_grpo":
            reward([HALF_RED], ["a"])
        else:
            reward.compute_rewards(SimpleNamespace(images=[HALF_RED], prompts=["a"]))


def test_counts_that_differ_are_refused():
    with pytest.raises(UsageError, match="2 images, 1 prompts"):
        TrainerReward(Recorder())([HALF_RED, HALF_RED], ["a"])


class _Forgetful(http.server.BaseHTTPRequestHandler):
    """Keeps a connection open for 0.2 seconds."""

    protocol_version = "HTTP/1.1"
    timeout = 0.2

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(0.05)  # so that requests which are sent together need a connection each
        data = json.dumps(GOOD).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_connections_that_the_service_has_closed_meanwhile_cost_no_tries():
    once = ClientSettings(attempts=1, timeout_seconds=5.0, concurrency=4)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Forgetful) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            client = client_of(f"http://127.0.0.1:{server.server_address[1]}", settings=once)
            before = client.judge([REQUEST] * 4)
            kept = client._connections.qsize()
            time.sleep(0.6)
            after = client.judge([REQUEST])
        finally:
            server.shutdown()
            thread.join()

    assert kept > 1
    assert [judgement.status for judgement in [*before, *after]] == [Status.OK] * 5


def test_an_image_that_cannot_be_sent_says_what_is_wrong():
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    half = Image.open(io.BytesIO(whole.getvalue()[:2000]))
    judgement = client_of("http://127.0.0.1:9").judge([JudgementRequest("a", half, png())])[0]

    assert judgement.status is Status.UNREADABLE_MEDIA
    assert "truncated or damaged" in str(judgement.message)


def turned() -> Image.Image:
    """A picture whose file says that it stands on its side."""
    marks, file = Image.Exif(), io.BytesIO()
    marks[0x0112] = 6
    Image.effect_mandelbrot((12, 8), (-2, -1.5, 1, 1.5), 20).convert("RGB").save(file, "JPEG", exif=marks)
    return Image.open(file)


def see_through() -> Image.Image:
    """Red that lets half of what is behind it through."""
    return Image.new("RGBA", (4, 4), (255, 0, 0, 128))


OF_EVERY_KIND = {
    "turned": turned,
    "see-through": see_through,
    "CMYK": lambda: Image.new("CMYK", (4, 4), (0, 255, 255, 0)),
    "YCbCr": lambda: Image.new("YCbCr", (4, 4), (90, 100, 110)),
    "16 bits": lambda: Image.fromarray(np.full((4, 4), 300 * 100, dtype=np.uint16)),
}


@pytest.mark.parametrize("kind", OF_EVERY_KIND)
def test_a_service_and_a_trainer_see_what_a_model_in_this_process_sees(kind: str):
    shown = np.asarray(load_image(OF_EVERY_KIND[kind]()))
    with serving(lambda n, _: (200, GOOD, {})) as (url, seen):
        client_of(url).judge([JudgementRequest("a", OF_EVERY_KIND[kind](), png())])
    sent = base64.b64decode(seen[0][1]["candidate"].split(",")[1])

    assert np.asarray(load_image(sent)).tolist() == shown.tolist()
    assert np.asarray(pictures([OF_EVERY_KIND[kind]()])[0]).tolist() == shown.tolist()


def test_a_file_that_is_not_there_is_named_by_a_ranking():
    with pytest.raises(MediaError, match=r"/nowhere\.png: No such file"):
        client_of("http://127.0.0.1:9").rank("a", ["/nowhere.png", png()])


@pytest.mark.parametrize(
    "images",
    [HALF_RED[None] * 255, (HALF_RED[None] * 255).long(), HALF_RED.numpy()[None].astype(np.int64)],
    ids=["floats to 255", "whole numbers", "array of whole numbers"],
)
def test_numbers_that_would_come_out_white_are_refused(images):
    with pytest.raises(UsageError, match="give bytes"):
        pictures(images)


@pytest.mark.parametrize("lacking", [{"attempts": 0}, {"concurrency": 0}, {"timeout_seconds": 0.0}])
def test_a_client_that_would_never_ask_is_refused(lacking: dict[str, Any]):
    with pytest.raises(UsageError, match="at least one attempt"):
        ClientSettings(**lacking)
