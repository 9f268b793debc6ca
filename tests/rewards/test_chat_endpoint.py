import json
import time
from collections.abc import Iterator
from itertools import islice

import pytest

from rewarddance.core.errors import UsageError
from rewarddance.rewards.chat_endpoint import ChatEndpoint, ChatRequest, EndpointSettings
from rewarddance.rewards.chat_replies import ChatFailure, ChatReply, FailureKind, read_reply
from tests.chat_server import ChatServer, chat_server, says

SECRET = "sk-a-secret-of-the-tests"


def echo(body):
    return says("you said: " + body["messages"][0]["content"][0]["text"])


@pytest.fixture(scope="module")
def service() -> Iterator[ChatServer]:
    with chat_server(echo) as server:
        yield server


@pytest.fixture
def server(service: ChatServer) -> ChatServer:
    service.calm_down()
    return service


def endpoint(server: ChatServer, **changes: object) -> ChatEndpoint:
    quick = {"deadline_seconds": 10.0, "backoff_seconds": 0.01, "tries": 3}
    return ChatEndpoint(EndpointSettings(url=server.url, model="tiny", **(quick | changes)))


def question(text: str = "hello", **changes: object) -> ChatRequest:
    return ChatRequest(**({"parts": (text,), "max_tokens": 20} | changes))


def test_a_reply_is_text_with_its_counts(server):
    reply = endpoint(server).ask([question()])[0]

    assert reply == ChatReply("you said: hello", (), "stop", prompt_tokens=11, generated_tokens=3)


def test_replies_come_in_the_order_of_the_questions(server):
    replies = endpoint(server, concurrency=4).ask([question(str(number)) for number in range(9)])

    assert [reply.text for reply in replies] == [f"you said: {number}" for number in range(9)]


def test_no_more_questions_are_in_flight_than_allowed(server):
    server.delay_seconds = 0.05

    endpoint(server, concurrency=3).ask([question(str(number)) for number in range(9)])

    assert server.most_at_once == 3


def test_questions_are_taken_only_when_there_is_room_for_them(server):
    taken = []

    def questions():
        for number in range(20):
            taken.append(number)
            yield question(str(number))

    first = list(islice(endpoint(server, concurrency=2).replies(questions()), 3))

    assert len(first) == 3
    assert len(taken) <= 5


@pytest.mark.parametrize(
    ("mood", "kind"),
    [
        ("429", FailureKind.RATE_LIMITED),
        ("500", FailureKind.SERVER_ERROR),
        ("503", FailureKind.SERVER_ERROR),
        ("broken_off", FailureKind.BROKEN_OFF),
        ("hang_up", FailureKind.BROKEN_OFF),
        ("malformed", FailureKind.MALFORMED),
        ("html", FailureKind.MALFORMED),
        ("empty", FailureKind.MALFORMED),
        ("no_choices", FailureKind.MALFORMED),
        ("two_choices", FailureKind.MALFORMED),
        ("wrong_index", FailureKind.MALFORMED),
        ("no_text", FailureKind.MALFORMED),
        ("aborted", FailureKind.BROKEN_OFF),
    ],
)
def test_a_passing_failure_is_asked_again_and_a_lasting_one_has_a_name(mood: str, kind: FailureKind, server):
    server.misbehave(mood, mood)
    mended = endpoint(server).ask([question()])[0]
    server.lasting_mood = mood
    lasting = endpoint(server).ask([question()])[0]

    assert (mended.text, mended.tries) == ("you said: hello", 3)
    assert isinstance(lasting, ChatFailure)
    assert (lasting.kind, lasting.tries) == (kind, 3)
    assert len(server.bodies) == 6


@pytest.mark.parametrize(
    ("mood", "kind"),
    [
        ("refusal", FailureKind.REFUSED),
        ("content_filter", FailureKind.REFUSED),
        ("cut_short", FailureKind.CUT_SHORT),
        ("400", FailureKind.REJECTED),
        ("404", FailureKind.REJECTED),
        ("401", FailureKind.NOT_ALLOWED),
        ("302", FailureKind.REJECTED),
    ],
)
def test_a_failure_that_would_come_again_is_not_asked_again(mood: str, kind: FailureKind, server):
    server.lasting_mood = mood

    outcome = endpoint(server).ask([question()])[0]

    assert isinstance(outcome, ChatFailure)
    assert outcome.kind is kind
    assert len(server.bodies) == 1


@pytest.mark.parametrize("mood", ["hang", "drip", "drip_head"])
def test_a_service_that_does_not_come_to_an_end_is_left_at_the_deadline(mood: str, server):
    server.misbehave(mood)
    started = time.monotonic()

    outcome = endpoint(server, deadline_seconds=0.3, tries=1).ask([question()])[0]

    assert outcome.kind is FailureKind.TIMED_OUT
    assert time.monotonic() - started < 5


def test_a_service_that_is_not_there_is_unreachable():
    settings = EndpointSettings("http://127.0.0.1:9/v1", "tiny", tries=2, backoff_seconds=0.01)

    outcome = ChatEndpoint(settings).ask([question()])[0]

    assert (outcome.kind, outcome.tries) == (FailureKind.UNREACHABLE, 2)


def test_a_retry_after_is_kept(server):
    server.retry_after = "0.4"
    server.misbehave("429")
    started = time.monotonic()

    outcome = endpoint(server).ask([question()])[0]

    assert outcome.text == "you said: hello"
    assert time.monotonic() - started >= 0.4


def test_a_retry_after_holds_for_every_question_of_the_client(server):
    server.retry_after = "0.4"
    server.misbehave("429")
    client = endpoint(server, concurrency=1)
    started = time.monotonic()

    outcomes = client.ask([question("first"), question("second")])

    assert all(isinstance(outcome, ChatReply) for outcome in outcomes)
    assert time.monotonic() - started >= 0.4


def test_a_retry_after_beyond_all_patience_is_a_failure_at_once(server):
    server.retry_after = "86400"
    server.lasting_mood = "429"

    outcome = endpoint(server).ask([question()])[0]

    assert outcome.kind is FailureKind.RATE_LIMITED
    assert "86400 seconds" in outcome.message
    assert len(server.bodies) == 1


def test_pauses_grow(server):
    server.lasting_mood = "500"
    started = time.monotonic()

    endpoint(server, tries=4, backoff_seconds=0.2).ask([question()])

    # At least half of 0.2 + 0.4 + 0.8 seconds.
    assert time.monotonic() - started >= 0.7


def test_the_key_reaches_the_service_and_nothing_that_is_kept(monkeypatch):
    monkeypatch.setenv("TESTS_KEY", SECRET)
    with chat_server(lambda body: says(f"your key is {SECRET}")) as server:
        client = endpoint(server, api_key_env="TESTS_KEY")
        outcome = client.ask([question()])[0]

    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert outcome.text == "your key is [key]"
    assert SECRET not in repr(client.settings) + repr(outcome)


def test_a_redirect_is_not_followed_with_the_key(server, monkeypatch):
    monkeypatch.setenv("TESTS_KEY", SECRET)
    server.lasting_mood = "307"

    outcome = endpoint(server, api_key_env="TESTS_KEY").ask([question()])[0]

    assert outcome.kind is FailureKind.REJECTED
    assert "307" in outcome.message


@pytest.mark.parametrize("value", ["", "  ", "two\nlines"])
def test_a_variable_without_a_key_is_named(value: str, server, monkeypatch):
    monkeypatch.setenv("TESTS_KEY", value)

    with pytest.raises(UsageError, match="TESTS_KEY"):
        endpoint(server, api_key_env="TESTS_KEY")


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://user:pass@host/v1", "http://h/v1?k=1"])
def test_what_is_no_plain_address_is_refused(url: str):
    with pytest.raises(UsageError):
        EndpointSettings(url, "tiny")


def test_an_error_in_the_caller_s_questions_is_raised_and_not_counted_as_a_failure(server):
    with pytest.raises(TypeError):
        endpoint(server).ask([question(extra={"not": {"json"}})])


@pytest.mark.parametrize("reason", ["stop", "eos", "end_turn", None])
def test_a_text_that_came_to_its_end_is_a_reply(reason: str | None):
    found = read_reply(said("All of it.", reason), wants_log_probabilities=False, must_finish=True)

    assert (found.text, found.finish_reason) == ("All of it.", reason)


@pytest.mark.parametrize(
    "reason", ["abort", "error", "tool_calls", "insufficient_system_resource", "", "STOPPED", 0, {"type": "stop"}]
)
def test_a_text_that_ended_for_any_other_reason_is_broken_off(reason: object):
    broken = read_reply(said("Half of", reason), wants_log_probabilities=False, must_finish=True)
    taken = read_reply(said("Half of", reason), wants_log_probabilities=False, must_finish=False)

    assert (broken.kind, broken.text) == (FailureKind.BROKEN_OFF, "Half of")
    assert taken.text == "Half of"


def said(text: str, reason: object) -> bytes:
    return json.dumps(says(text, finish_reason=reason)).encode()


def test_the_first_token_s_chances_need_no_text():
    chances = {"content": [{"token": "yes", "logprob": -0.1, "top_logprobs": [{"token": "yes", "logprob": -0.1}]}]}
    message = {"role": "assistant", "content": None}
    body = json.dumps(says("", message=message, finish_reason="length", logprobs=chances)).encode()

    asked_for_chances = read_reply(body, wants_log_probabilities=True, must_finish=False)
    asked_for_text = read_reply(body, wants_log_probabilities=False, must_finish=False)

    assert (asked_for_chances.text, [one.token for one in asked_for_chances.first_token]) == (None, ["yes"])
    assert asked_for_text.kind is FailureKind.MALFORMED


def test_request_fields_are_added_replaced_and_left_out(server):
    fields = {
        "max_tokens": None,
        "max_completion_tokens": 2000,
        "temperature": None,
        "seed": None,
        "n": None,
        "top_p": 1,
    }
    client = endpoint(server, request_fields=fields)
    client.ask([question(seed=7, extra={"top_p": 0.5, "top_k": 3})])

    sent = dict(server.bodies[0])
    del sent["messages"]
    assert sent == {"model": "tiny", "stream": False, "max_completion_tokens": 2000, "top_p": 1, "top_k": 3}


@pytest.mark.parametrize("fields", [{"model": "other"}, {"messages": None}, {"stream": True}, {"n": 2}])
def test_request_fields_that_would_change_the_question_or_the_form_of_the_reply_are_refused(fields, server):
    with pytest.raises(UsageError, match=next(iter(fields))):
        endpoint(server, request_fields=fields)


def test_images_travel_as_png_files(server):
    endpoint(server).ask([ChatRequest(("look", b"\x89PNG bytes"), max_tokens=5)])

    assert server.bodies[0]["messages"][0]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,iVBORyBieXRlcw=="},
    }


def test_a_log_probability_of_any_length_is_malformed_and_no_mistake_of_ours():
    body = b'{"choices": [{"message": {"content": "yes"}, "logprobs": {"content": [{"token": "yes", "logprob": -%s, '
    body += b'"top_logprobs": [{"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -%s}]}]}}]}'
    found = read_reply(body % (b"9" * 400, b"9" * 400), wants_log_probabilities=True, must_finish=False)

    assert isinstance(found, ChatFailure)
    assert found.kind is FailureKind.MALFORMED
