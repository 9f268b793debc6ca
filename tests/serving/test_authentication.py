from collections.abc import Iterator

import pytest
from starlette.routing import Route

from rewarddance.core.errors import UsageError
from rewarddance.serving.app import build_app
from rewarddance.serving.authentication import TOKEN_VARIABLE, token_for
from rewarddance.serving.server import listening_socket, run_service
from rewarddance.serving.service import Service
from tests.serving.stand_in import Running, StandInModel, engine_of, judge_body, running

TOKEN = "a-token-of-sixteen-or-more"


def routes() -> list[tuple[str, str]]:
    """Every method of every route, from the application itself: a new route cannot be forgotten."""
    app = build_app(Service(lambda: engine_of(StandInModel())), TOKEN)
    found = []
    for route in app.routes:
        assert isinstance(route, Route), f"{route} is no plain route; say how it is protected"
        found += [(method, route.path) for method in sorted(route.methods or ())]
    return found


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    with running(token=TOKEN) as here:
        yield here


def test_the_routes_are_those_that_are_documented():
    assert {path for _, path in routes()} == {
        "/v1/judge",
        "/v1/rank",
        "/v1/chat/completions",
        "/v1/models",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
    }


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong-token-of-sixteen"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"host": "a/health?x="},
        {"host": "localhost/v1/judge#"},
        {"x-forwarded-for": "127.0.0.1"},
        {"x-original-url": "/health"},
    ],
)
@pytest.mark.parametrize(("method", "path"), routes())
def test_no_route_answers_without_the_token(guarded: Running, method: str, path: str, headers: dict[str, str]):
    body = b"{}" if method == "POST" else None
    reply = guarded.ask(method, path, body, {"content-type": "application/json", **headers})

    assert (reply.status, reply.code) == (401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"


def test_the_token_opens_every_route(guarded: Running):
    headers = {"authorization": f"Bearer {TOKEN}"}
    states = [guarded.ask(method, path, None, headers).status for method, path in routes() if method == "GET"]

    assert states == [200] * 5
    assert guarded.post("/v1/judge", judge_body(), authorization=f"bearer {TOKEN}").status == 200


def test_a_route_without_the_dependency_would_be_open():
    # The protection is the dependency: without it, what every case above refuses is answered.
    with running(token=None) as here:
        assert here.get("/health").status == 200


def test_a_body_is_not_read_for_a_stranger(guarded: Running):
    headers = {"content-type": "application/json", "content-length": "1000"}

    assert guarded.ask("POST", "/v1/judge", None, headers).status == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_an_address_for_others_needs_a_token(host: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(UsageError, match="set a token"):
        token_for(host)

    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert token_for(host) == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_token(host: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)

    assert token_for(host) is None


def test_a_short_token_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "short")

    with pytest.raises(UsageError, match="16 or more"):
        token_for("127.0.0.1")


def test_the_server_itself_refuses_an_open_socket_without_token():
    with listening_socket("0.0.0.0", 0) as listener, pytest.raises(UsageError, match="needs a token"):
        run_service(Service(lambda: engine_of(StandInModel())), listener, None)


def test_a_port_that_is_taken_is_one_line():
    with listening_socket("127.0.0.1", 0) as listener, pytest.raises(UsageError, match="cannot listen"):
        listening_socket("127.0.0.1", listener.getsockname()[1])
