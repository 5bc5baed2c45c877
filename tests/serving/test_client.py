"""Requests against real sockets: nothing lost, nothing counted twice, whatever the server does."""

from __future__ import annotations

import itertools
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from fake_server import FakeServer, Reply

from rlp_engine.config.sections.generation import ServerConfig
from rlp_engine.errors import ConfigError, DataError, Interrupted, ServerError
from rlp_engine.run.reporting import NullReporter
from rlp_engine.run.signals import StopSignal
from rlp_engine.serving.client import ServerClient
from rlp_engine.serving.failures import retry_after
from rlp_engine.serving.messages import ServerAnswer, ServerRequest


class Told(NullReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def config(*urls: str, **more: object) -> ServerConfig:
    quick = {"backoff_seconds": 0.01, "max_backoff_seconds": 0.05, "timeout_seconds": 10.0, "max_in_flight": 4}
    return ServerConfig(base_urls=list(urls), model="m", **(quick | more))


def prompts(count: int) -> list[ServerRequest]:
    return [ServerRequest(prompt=f"p{number}", max_tokens=8, seed=number) for number in range(count)]


def texts(client: ServerClient, requests: list[ServerRequest]) -> list[str]:
    """By request, each answered exactly once."""
    answers = list(client.stream(requests))
    assert Counter(answer.index for answer in answers) == Counter(range(len(requests)))
    return [answer.text for answer in sorted(answers, key=lambda answer: answer.index)]


def keep(answers: Iterator[ServerAnswer], kept: list[str]) -> None:
    """What came before the stream ended, or failed."""
    for answer in answers:
        kept.append(answer.text)


def whole(count: int) -> list[str]:
    return [f"<p{number}>" for number in range(count)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_answers_belong_to_their_requests_and_are_counted():
    with FakeServer(misbehave=lambda number, body: Reply(seconds=0.03 if number % 3 == 0 else 0.0)) as server:
        client = ServerClient(config(server.url))
        assert texts(client, prompts(30)) == whole(30)
    assert len(server.requests) == 30
    assert server.requests[0] | {"prompt": "", "seed": 0} == {
        "model": "m", "prompt": "", "max_tokens": 8, "temperature": 1.0, "top_p": 1.0, "seed": 0,
    }  # fmt: skip
    tokens = sum(len(f"p{number}") for number in range(30))
    assert client.counts.summary() == {
        "requests_answered": 30, "requests_sent_again": {}, "prompt_tokens": tokens, "completion_tokens": 60,
    }  # fmt: skip


def test_never_more_in_flight_than_allowed_and_never_far_ahead():
    taken = itertools.count()
    most_ahead = 0

    def source() -> Iterator[ServerRequest]:
        for request in prompts(60):
            next(taken)
            yield request

    with FakeServer(misbehave=lambda number, body: Reply(seconds=0.005)) as server:
        client = ServerClient(config(server.url, max_in_flight=3))
        for answered, _ in enumerate(client.stream(source())):
            most_ahead = max(most_ahead, next(taken) - answered)
    assert server.most_at_once == 3
    assert client.read_ahead == 6


MISBEHAVIOURS = {
    "500": Reply(500, {"error": "oops"}),
    "503": Reply(503, b"<html>no</html>", {"retry-after": "0"}),
    "429": Reply(429, {"error": "slow down"}, {"retry-after": "0"}),
    "truncated body": Reply(cut_at=20),
    "half a JSON": Reply(body=b'{"choices": [{"te'),
    "no choice": Reply(body={"choices": []}),
    "two choices": Reply(body={"choices": [{"index": i, "text": "x", "finish_reason": "stop"} for i in (0, 1)]}),
    "no text": Reply(body={"choices": [{"index": 0, "finish_reason": "stop"}]}),
    "NaN": Reply(body=b'{"choices": [{"text": "x", "finish_reason": "stop", "logprobs": NaN}]}'),
    "half a surrogate": Reply(body=b'{"choices": [{"text": "\\ud800", "finish_reason": "stop"}]}'),
    "dropped": Reply(drop=True),
}


def test_a_storm_of_every_failure_loses_and_doubles_nothing():
    kinds = list(MISBEHAVIOURS.values())

    def storm(number: int, body: dict) -> Reply | None:
        return kinds[number // 2 % len(kinds)] if number % 2 else None

    with FakeServer(misbehave=storm) as server:
        client = ServerClient(config(server.url, max_retries=50))
        assert texts(client, prompts(44)) == whole(44)
    assert len(server.answered) == 44  # what was answered whole was not asked again
    assert len(server.requests) == 44 + client.counts.retries.total()
    assert set(client.counts.retries) >= {"500", "503", "429", "not whole", "dropped"}


def test_retry_after_is_obeyed_by_all_requests():
    came, told = [], Told()

    def misbehave(number: int, body: dict) -> Reply | None:
        came.append(time.monotonic())
        return Reply(429, {}, {"retry-after": "1"}) if number == 0 else None

    with FakeServer(misbehave=misbehave) as server:
        client = ServerClient(config(server.url, max_in_flight=1), reporter=told)
        assert texts(client, prompts(3)) == whole(3)
    assert len(came) == 4
    assert came[1] - came[0] >= 1.0
    assert len(told.warnings) == 2
    assert "429" in told.warnings[0]
    assert "answers again" in told.warnings[1]


def test_a_date_to_retry_after_is_counted_from_the_servers_own_clock():
    in_1994 = "Sun, 06 Nov 1994 08:49:{:02d} GMT"
    assert retry_after(in_1994.format(37), in_1994.format(30)) == 7.0
    assert retry_after(in_1994.format(37), in_1994.format(40)) == 0.0
    assert retry_after(in_1994.format(37)) == 0.0, "without its Date it has passed"
    assert retry_after("soon", in_1994.format(30)) == 0.0


def test_a_hanging_server_is_left_for_a_live_one():
    never = threading.Event()
    with FakeServer(misbehave=lambda number, body: Reply(wait_for=never)) as hanging, FakeServer() as live:
        client = ServerClient(config(hanging.url, live.url, timeout_seconds=0.2, max_retries=20))
        assert texts(client, prompts(12)) == whole(12)
        never.set()
    assert client.counts.retries["timeout"] >= 1


def test_a_dead_server_is_set_aside_and_said_once():
    told = Told()
    with FakeServer() as live:
        dead = f"http://127.0.0.1:{free_port()}/v1"
        client = ServerClient(config(dead, live.url, backoff_seconds=60.0, max_backoff_seconds=60.0), reporter=told)
        assert texts(client, prompts(20)) == whole(20)
    assert len(told.warnings) == 1
    assert dead in told.warnings[0]
    assert client.counts.retries["connection"] <= 4  # those in flight when it was found dead


def test_requests_go_to_all_live_servers():
    with FakeServer() as one, FakeServer() as two:
        assert texts(ServerClient(config(one.url, two.url)), prompts(20)) == whole(20)
        assert min(len(one.requests), len(two.requests)) >= 5


def test_a_refused_request_ends_the_stream_after_those_in_flight(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    go = threading.Event()

    def refuse(number: int, body: dict) -> Reply | None:
        if body["prompt"] == "p1":
            return Reply(400, b'{"error": "no \x1b[31m sk-secret ' + b"x" * 900 + b'"}')
        return Reply(wait_for=go)

    with FakeServer(misbehave=refuse) as server:
        client = ServerClient(config(server.url, max_in_flight=2, api_key_env="SOME_KEY"))
        threading.Timer(0.3, go.set).start()
        kept = []
        with pytest.raises(ServerError, match="refused a request \\(400\\)") as error:
            keep(client.stream(prompts(9)), kept)
    assert kept == ["<p0>"]  # it was under way, and is paid for
    assert len(server.requests) == 2  # nothing new was asked
    assert error.value.exit_code == 5
    assert error.value.where == server.url
    assert "sk-secret" not in str(error.value)
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 600
    assert server.headers[0]["authorization"] == "Bearer sk-secret"


def test_retries_end_with_a_clear_error():
    with FakeServer(misbehave=lambda number, body: Reply(body=b"{")) as server:
        client = ServerClient(config(server.url, max_retries=3))
        with pytest.raises(ServerError, match="failed 4 times; at last the server gave a bad answer"):
            client.ask(prompts(1)[0])
    assert len(server.requests) == 4
    with pytest.raises(ServerError, match="cannot be reached"):
        ServerClient(config(f"http://127.0.0.1:{free_port()}/v1", max_retries=1)).ask(prompts(1)[0])


def test_a_stop_sends_nothing_new_and_keeps_what_is_under_way():
    stop = StopSignal()

    def misbehave(number: int, body: dict) -> Reply:
        if number == 1:
            stop.request(signal.SIGINT)
        return Reply(seconds=0.4)

    kept = []
    with FakeServer(misbehave=misbehave) as server, pytest.raises(Interrupted) as error:
        keep(ServerClient(config(server.url, max_in_flight=2), stop=stop).stream(prompts(50)), kept)
    assert sorted(kept) == whole(2)
    assert len(server.requests) == 2
    assert error.value.exit_code == 130


def test_a_stop_ends_the_wait_for_a_server_that_is_not_there():
    stop = StopSignal()
    dead = config(f"http://127.0.0.1:{free_port()}/v1", backoff_seconds=60.0, max_backoff_seconds=60.0)
    threading.Timer(0.3, stop.request).start()
    with pytest.raises(Interrupted):
        ServerClient(dead, stop=stop).ask(prompts(1)[0])


def test_an_error_of_the_one_who_makes_requests_comes_after_the_answers():
    def source() -> Iterator[ServerRequest]:
        yield prompts(1)[0]
        raise DataError("bad row")

    kept = []
    with FakeServer() as server, pytest.raises(DataError, match="bad row"):
        keep(ServerClient(config(server.url)).stream(source()), kept)
    assert kept == ["<p0>"]


def test_leaving_the_stream_early_leaves_no_thread():
    with FakeServer(misbehave=lambda number, body: Reply(seconds=0.05)) as server:
        for _ in ServerClient(config(server.url)).stream(prompts(50)):
            break
        assert not [thread for thread in threading.enumerate() if thread.name == "server requests"]


def test_chat_and_log_probabilities_are_read():
    place = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}
    choice = {
        "message": {"role": "assistant", "content": "a"},
        "finish_reason": "length",
        "logprobs": {"content": [place]},
    }
    with FakeServer(says=lambda body: choice) as server:
        client = ServerClient(config(server.url))
        request = ServerRequest(messages=[{"role": "user", "content": "q"}], max_tokens=1, n=2, logprobs=3)
        answer = client.ask(request)
    assert len(answer.choices) == 2
    assert answer.choices[1].finish_reason == "length"
    assert answer.choices[1].token_logprobs == (-0.5,)
    assert answer.choices[1].top_logprobs == ({"a": -0.5},)
    assert server.requests[0]["top_logprobs"] == 3
    assert server.requests[0]["logprobs"] is True


def test_token_ids_are_read_in_both_ways_of_vllm():
    logprobs = {"tokens": ["token_id:7", "token_id:2"], "token_logprobs": [-1.0, -2.0]}
    rows = iter(
        [
            {"text": "x", "finish_reason": "stop", "logprobs": logprobs},
            {"text": "x", "finish_reason": "stop", "token_ids": [7, 2]},
        ]
    )
    with FakeServer(says=lambda body: next(rows)) as server:
        client = ServerClient(config(server.url))
        answers = [client.ask(ServerRequest(prompt=[1, 5], max_tokens=2, extra={"top_k": -1})) for _ in range(2)]
    assert [answer.choices[0].token_ids for answer in answers] == [(7, 2), (7, 2)]
    assert answers[0].choices[0].token_logprobs == (-1.0, -2.0)
    assert server.requests[0]["prompt"] == [1, 5]
    assert server.requests[0]["top_k"] == -1


def test_the_key_must_be_in_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        ServerClient(config("http://127.0.0.1:1/v1", api_key_env="NO_SUCH_KEY"))
    monkeypatch.setenv("NO_SUCH_KEY", "sk\u00e9cret\n")
    with pytest.raises(ConfigError, match="does not hold a key") as error:
        ServerClient(config("http://127.0.0.1:1/v1", api_key_env="NO_SUCH_KEY"))
    assert "cret" not in str(error.value)
    with pytest.raises(ConfigError, match="no server to ask"):
        ServerClient(ServerConfig())


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://host/v1", "http://", "http://me:secret@host/v1", "http://host/v1?key=1", "http://h:x"],
)
def test_addresses_that_are_none_are_refused_and_secrets_in_them_not_shown(url: str):
    with pytest.raises(ValueError, match="base_urls") as error:
        ServerConfig(base_urls=[url])
    assert "secret" not in error.value.errors()[0]["msg"]
