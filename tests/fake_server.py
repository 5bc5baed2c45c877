"""A small OpenAI-compatible server on a real socket, which misbehaves as it is told to.

    with FakeServer(says=lambda body: "an answer", misbehave=lambda number, body: Reply(status=500)) as server:
        ServerConfig(base_urls=[server.url])

It keeps every request and counts how many it worked on at the same time.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass
class Reply:
    """One response. `body` None: the answer that belongs to the request."""

    status: int = 200
    body: bytes | Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_for: threading.Event | None = None  # before it answers; the test's end sets all of them
    seconds: float = 0.0  # what it takes to answer
    cut_at: int | None = None  # bytes of the body that are sent before the connection breaks
    drop: bool = False  # break the connection without a word


Says = Callable[[dict[str, Any]], "str | dict[str, Any]"]  # a text, or a whole choice (`tokens_drawn` is for usage)
Misbehave = Callable[[int, dict[str, Any]], "Reply | None"]


def echo(body: dict[str, Any]) -> str:
    """The prompt, said once more."""
    return f"<{body['prompt']}>"


class FakeServer:
    """`requests`: the bodies so far, in order; `answered`: those that got a whole answer with status 200."""

    def __init__(
        self, says: Says = echo, misbehave: Misbehave = lambda number, body: None, *, models: Reply | None = None
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._says, self._misbehave, self._models = says, misbehave, models or Reply(404, {"error": "none"})
        self._at_once = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def models(self) -> Reply:
        return self._models

    def reply(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.headers.append(headers)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        reply = self._misbehave(number, body) or Reply()
        if reply.wait_for:
            reply.wait_for.wait(30)
        time.sleep(reply.seconds)
        if reply.body is None and reply.status == 200:
            reply.body = completion(body, self._says) if path.endswith("/v1/completions") else chat(body, self._says)
            if reply.cut_at is None and not reply.drop:
                with self._lock:
                    self.answered.append(body)
        return reply

    def done(self) -> None:
        with self._lock:
            self._at_once -= 1


def completion(body: dict[str, Any], says: Says) -> dict[str, Any]:
    said = [says(body) for _ in range(body.get("n", 1))]
    rows = [choice if isinstance(choice, dict) else {"text": choice, "finish_reason": "stop"} for choice in said]
    return _whole(body, [{"index": place} | row for place, row in enumerate(rows)], len(body["prompt"]))


def chat(body: dict[str, Any], says: Says) -> dict[str, Any]:
    said = [says(body) for _ in range(body.get("n", 1))]
    rows = [
        choice
        if isinstance(choice, dict)
        else {"message": {"role": "assistant", "content": choice}, "finish_reason": "stop"}
        for choice in said
    ]
    return _whole(body, [{"index": place} | row for place, row in enumerate(rows)], len(body["messages"]))


def _whole(body: dict[str, Any], choices: list[dict[str, Any]], prompt_tokens: int) -> dict[str, Any]:
    tokens = sum(choice.pop("tokens_drawn", 2) for choice in choices)
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    return {"object": "test", "model": body["model"], "choices": choices, "usage": usage}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def _handler(owner: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._send(owner.models())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            reply = owner.reply(self.path, body, {key.lower(): value for key, value in self.headers.items()})
            try:
                self._send(reply, owner.done)
            except (BrokenPipeError, ConnectionResetError):  # the client did not wait
                self.close_connection = True

        def _send(self, reply: Reply, done: Callable[[], None] = lambda: None) -> None:
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            done()  # before the client can know, so that the count is never too high
            if reply.drop:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(reply.status)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: reply.cut_at])
            if reply.cut_at is not None:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
