"""A chat-completions service on this machine, over real HTTP, around a tiny model or a few words; and its moods.

It holds a model as a service does: from the JSON of a request to token ids, one forward pass, and the likely first
tokens. `misbehave` makes the next replies bad ones.
"""

import base64
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from rewarddance.rewards.protocol import RewardModel

Body = Mapping[str, Any]
Respond = Callable[[Body], Body]
"""From a request's JSON to the JSON of the reply."""


@dataclass
class ChatServer:
    """What is told to the service, and what it remembers.

    Attributes:
        url: Base address for clients.
        bodies: Every request's JSON, in the order of arrival.
        headers: Every request's headers.
        most_at_once: Most requests that were in work at the same time.
        moods: How the next requests are treated, one each.
    """

    url: str
    bodies: list[Body] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    moods: deque[str] = field(default_factory=deque)
    lasting_mood: str | None = None
    retry_after: str | None = None
    delay_seconds: float = 0.0

    def misbehave(self, *moods: str) -> None:
        """Treat the next requests so: an HTTP status, or a name of `_MOODS`."""
        self.moods.extend(moods)

    def calm_down(self) -> None:
        """Behave from now on, and forget what was."""
        self.bodies.clear()
        self.headers.clear()
        self.moods.clear()
        self.lasting_mood = self.retry_after = None
        self.delay_seconds, self.most_at_once = 0.0, 0


@contextmanager
def chat_server(respond: Respond) -> Iterator[ChatServer]:
    """Serve on a free port of this machine until the end of the block."""
    lock = threading.Lock()
    at_once = 0
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

        def do_POST(self) -> None:
            nonlocal at_once
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                at_once += 1
                server.most_at_once = max(server.most_at_once, at_once)
                server.bodies.append(body)
                server.headers.append(dict(self.headers))
                mood = server.moods.popleft() if server.moods else server.lasting_mood
            try:
                time.sleep(server.delay_seconds)
                self._answer(body, mood)
            finally:
                with lock:
                    at_once -= 1

        def _answer(self, body: Body, mood: str | None) -> None:
            if self.path != "/v1/chat/completions":
                self._send(404, b'{"error": {"message": "no such path"}}')
            elif mood is None:
                self._send(200, json.dumps(respond(body)).encode())
            elif mood.isdigit():
                self._send(int(mood), b'{"error": {"message": "not now"}}')
            elif mood == "hang":
                is_over.wait(20)
                self.close_connection = True
            elif mood in ("drip", "drip_head"):
                self._drip(in_head=mood == "drip_head")
            elif mood == "broken_off":
                whole = json.dumps(respond(body)).encode()
                self._send(200, whole[: len(whole) // 2], length=len(whole))
                self.close_connection = True
            elif mood == "hang_up":
                self.close_connection = True
            else:
                self._send(200, _MOODS[mood](respond(body)))

        def _send(self, status: int, content: bytes, length: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content) if length is None else length))
            if status == 429 and server.retry_after is not None:
                self.send_header("Retry-After", server.retry_after)
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:9/v1/chat/completions")
            self.end_headers()
            self.wfile.write(content)

        def _drip(self, in_head: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            if in_head:
                self.flush_headers()
            else:
                self.end_headers()
            while not is_over.wait(0.05):
                try:
                    self.wfile.write(b"X-Slow: yes\r\n" if in_head else b" ")
                except OSError:
                    break
            self.close_connection = True

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that hangs up is part of the tests."""

    http = Quiet(("127.0.0.1", 0), Handler)
    server = ChatServer(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        is_over.set()
        http.shutdown()
        http.server_close()
        thread.join()


def says(text: str, **choice: object) -> Body:
    """A reply in the form of the protocol."""
    message = {"role": "assistant", "content": text}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"} | choice],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3},
    }


def model_answers(model: RewardModel, *, knows_token_ids: bool = True) -> Respond:
    """Serve a model as vLLM does: one token, and the log-probabilities of the likely or of the named ones."""
    lock = threading.Lock()

    def respond(body: Body) -> Body:
        parts = [_part(model, part) for part in body["messages"][0]["content"]]
        with lock, torch.no_grad():
            backbone = model.backbone
            hidden = backbone.answer_hidden(backbone.collate([backbone.encode(parts)]))
            logits = backbone.model.get_output_embeddings()(hidden)[0]
        chances = (logits / body["temperature"]).log_softmax(-1)
        best = int(chances.argmax())
        named = knows_token_ids and body.get("return_tokens_as_token_ids", False)
        listed = chances.topk(min(body["top_logprobs"], len(chances))).indices.tolist()
        if knows_token_ids and body.get("logprob_token_ids"):
            listed = [best, *(number for number in body["logprob_token_ids"] if number != best)]

        def entry(number: int) -> dict[str, object]:
            token = f"token_id:{number}" if named else backbone.tokenizer.decode([number])
            return {"token": token, "logprob": float(chances[number])}

        content = [entry(best) | {"top_logprobs": [entry(number) for number in listed]}]
        return says(backbone.tokenizer.decode([best]), finish_reason="length", logprobs={"content": content})

    return respond


def _part(model: RewardModel, part: Body) -> Any:
    if part["type"] == "text":
        return part["text"]
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(BytesIO(base64.b64decode(data)))
    assert image.mode == "RGB"
    return model.backbone.picture_from_image(image)


def _changed(reply: Body, **choice: object) -> bytes:
    content = json.loads(json.dumps(reply))
    content["choices"][0] |= choice
    return json.dumps(content).encode()


def _without_log_probabilities(reply: Body) -> bytes:
    return _changed(reply, logprobs=None)


def _with_nan(reply: Body) -> bytes:
    content = json.loads(json.dumps(reply))
    content["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["logprob"] = float("nan")
    return json.dumps(content).encode()


def _two_choices(reply: Body) -> bytes:
    first, second = dict(reply["choices"][0]), dict(reply["choices"][0])
    return json.dumps({**reply, "choices": [second | {"index": 1}, first | {"index": 0}]}).encode()


def _wrong_index(reply: Body) -> bytes:
    return _changed(reply, index=1)


def _shuffled_tokens(reply: Body) -> bytes:
    content = json.loads(json.dumps(reply))
    content["choices"][0]["logprobs"]["content"][0]["top_logprobs"].reverse()
    return json.dumps(content).encode()


_MOODS: dict[str, Callable[[Body], bytes]] = {
    "malformed": lambda reply: b'{"choices": [{"index": 0, "message"',
    "html": lambda reply: b"<html><body>502 Bad Gateway</body></html>",
    "empty": lambda reply: b"",
    "no_choices": lambda reply: b'{"choices": []}',
    "two_choices": _two_choices,
    "wrong_index": _wrong_index,
    "no_text": lambda reply: _changed(reply, message={"role": "assistant", "content": None}),
    "refusal": lambda reply: _changed(reply, message={"role": "assistant", "content": None, "refusal": "I will not"}),
    "content_filter": lambda reply: _changed(reply, finish_reason="content_filter"),
    "cut_short": lambda reply: _changed(reply, finish_reason="length"),
    "aborted": lambda reply: _changed(reply, finish_reason="abort"),
    "no_log_probabilities": _without_log_probabilities,
    "nan": _with_nan,
    "shuffled_tokens": _shuffled_tokens,
}
