"""A client for OpenAI-compatible servers: many requests at a time, each answered once.

Built on httpx2, not on the `openai` package, for three reasons. Our requests must be countable: a retry is a second
payment, so it is ours to decide, to report and to spread over several servers, and `openai` retries inside a call
against one address. Servers send fields that OpenAI's types do not know (token ids) and leave out some that they
demand. And httpx2 is already here: huggingface-hub downloads with it.

Asynchronous inside, in a thread of its own, so that connections go on while the caller writes an answer down;
a plain iterator outside.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx2

from rlp_engine.config.schema import ServerConfig
from rlp_engine.errors import ConfigError, RlpError, ServerError
from rlp_engine.run.reporting import NullReporter, Reporter
from rlp_engine.run.signals import StopSignal
from rlp_engine.serving.failures import PassingFailure, of_exception, of_status
from rlp_engine.serving.messages import Malformed, ServerAnswer, ServerRequest, parse_answer
from rlp_engine.serving.pool import Backoff, Halted, Pool, Server

READ_AHEAD = 2  # requests taken from the caller's iterable, for each that may be in flight
POLL_SECONDS = 0.1  # between looks at the stop signal
CONNECT_SECONDS = 15.0
LARGEST_ANSWER = 64 * 1024 * 1024  # bytes: far beyond any answer, and a runaway server does not fill the memory


@dataclass
class Counts:
    """What has been asked and paid for so far."""

    answers: int = 0
    retries: Counter[str] = field(default_factory=Counter)  # by kind of failure: "429", "timeout", ...
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0  # answers whose tokens the server did not count

    def add(self, answer: ServerAnswer) -> None:
        self.answers += 1
        if answer.usage is None:
            self.without_usage += 1
        else:
            self.prompt_tokens += answer.usage.prompt_tokens
            self.completion_tokens += answer.usage.completion_tokens

    def summary(self) -> dict[str, Any]:
        """For a stage's summary."""
        return {
            "requests_answered": self.answers,
            "requests_sent_again": dict(sorted(self.retries.items())),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


class ServerClient:
    """Asks the servers of one config. One stream at a time."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        model: str = "",
        names: Mapping[str, str] | None = None,
        stop: StopSignal | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        """
        Args:
            model: the name in requests when `config.model` is empty.
            names: address -> what the model is called there, where addresses differ; only these are asked.
            stop: once it is requested no request is sent any more, and those in flight are waited for.

        Raises:
            ConfigError: no address, or the variable of `api_key_env` is not set.
        """
        if not config.base_urls:
            raise ConfigError("there is no server to ask", where="base_urls", mend='e.g. ["http://127.0.0.1:8000/v1"]')
        self.model = config.model or model
        self.counts = Counts()
        self._config = config
        self._stop = stop or StopSignal()
        self._reporter = reporter or NullReporter()
        self._key = api_key(config)
        names = names or dict.fromkeys(config.base_urls, self.model)
        self._servers = [Server(url, name) for url, name in names.items()]
        self._backoff = Backoff(config.backoff_seconds, config.max_backoff_seconds)

    @property
    def read_ahead(self) -> int:
        """Most requests that are taken from the caller's iterable and not yielded yet."""
        return READ_AHEAD * self._config.max_in_flight * len(self._servers)

    def ask(self, request: ServerRequest) -> ServerAnswer:
        """One request; as `stream`."""
        return next(iter(self.stream([request])))

    def stream(self, requests: Iterable[ServerRequest]) -> Iterator[ServerAnswer]:
        """The answers as they come, each with the place of its request in `requests`.

        Whatever ends the stream early, the answers that are in flight are waited for and yielded first: they are
        paid for. `requests` is read only a little ahead of the answers (`read_ahead`).

        Raises:
            ServerError: the server refused a request (4xx), or one failed `max_retries` times more after the first.
            Interrupted: a stop was asked for and some requests are left.
        """
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        source = enumerate(requests)
        outstanding, is_left, failure = 0, True, None
        skipped = 0
        with _Work(self._config, self._servers, self._backoff, self._key, inbox.put) as work:
            while True:
                if failure or self._stop.requested:
                    work.halt()
                while is_left and outstanding < self.read_ahead and not (failure or self._stop.requested):
                    try:
                        index, request = next(source)
                    except StopIteration:
                        is_left = False
                    except RlpError as error:  # of whoever makes the requests; what is in flight still counts
                        failure = error
                    else:
                        work.submit(index, request)
                        outstanding += 1
                if not outstanding:
                    break
                try:
                    outcome = inbox.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(outcome, str):
                    self._reporter.warn(outcome)
                    continue
                if isinstance(outcome, PassingFailure):
                    self.counts.retries[outcome.kind] += 1
                    continue
                outstanding -= 1
                if isinstance(outcome, ServerAnswer):
                    self.counts.add(outcome)
                    yield outcome
                elif isinstance(outcome, Halted):
                    skipped += 1
                else:
                    failure = failure or outcome
        if failure:
            raise failure
        if is_left or skipped:
            self._stop.check("between requests to a server; what was answered is kept")


def api_key(config: ServerConfig) -> str:
    """The key in the environment, "" where the config names no variable.

    Raises:
        ConfigError: the variable is not set, or empty.
    """
    if not config.api_key_env:
        return ""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {config.api_key_env} is not set",
            where="api_key_env",
            mend=f"export {config.api_key_env}=..., or take api_key_env out for a server without keys",
        )
    return key


def headers_of(key: str) -> dict[str, str]:
    """What says who we are."""
    return {"authorization": f"Bearer {key}"} if key else {}


def no_proxy_for(urls: Iterable[str]) -> dict[str, None]:
    """No proxy for this machine's own servers, whatever the environment says of others."""
    hosts = {httpx2.URL(url).host for url in urls}
    own = {host for host in hosts if host in ("localhost", "::1") or host.startswith("127.")}
    return {f"all://[{host}]" if ":" in host else f"all://{host}": None for host in own}


class _Work:
    """An event loop in a thread of its own, and the requests under way on it."""

    def __init__(
        self,
        config: ServerConfig,
        servers: list[Server],
        backoff: Backoff,
        key: str,
        deliver: Callable[[Any], None],
    ) -> None:
        self._config, self._servers, self._backoff = config, servers, backoff
        self._key, self._deliver = key, deliver
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server requests", daemon=True)
        self._is_halted = False

    def __enter__(self) -> _Work:
        self._thread.start()
        self._wait(self._open())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> None:
        self._pool = Pool(self._servers, self._config.max_in_flight, self._backoff, self._deliver)
        seconds = self._config.timeout_seconds
        self._http = httpx2.AsyncClient(
            headers=headers_of(self._key),
            timeout=httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS), pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=self._config.max_in_flight),
            mounts=no_proxy_for(self._config.base_urls),
        )
        self._tasks: set[asyncio.Task[None]] = set()

    async def _close(self) -> None:
        for task in self._tasks:  # only where the caller left before the end
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    def submit(self, index: int, request: ServerRequest) -> None:
        """Ask; the outcome is delivered: an answer, Halted, or the error that ends the stream."""
        self._loop.call_soon_threadsafe(self._start, index, request)

    def _start(self, index: int, request: ServerRequest) -> None:
        task = self._loop.create_task(self._ask(index, request))
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[ServerAnswer]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._deliver(task.exception() or task.result())

    def halt(self) -> None:
        """Send nothing more. May be called again."""
        if not self._is_halted:
            self._is_halted = True
            self._wait(self._pool.halt())

    async def _ask(self, index: int, request: ServerRequest) -> ServerAnswer:
        """Send until it is answered. Raises Halted, or ServerError."""
        attempts = 0
        while True:
            server = await self._pool.acquire()
            attempts += 1
            failure = None
            try:
                return await self._send(server, index, request, attempts)
            except (httpx2.TransportError, httpx2.DecodingError, TimeoutError, Malformed) as error:
                failure = of_exception(error)
            except PassingFailure as error:
                failure = error
            except ServerError:
                await self._pool.halt()  # before this place is free: nothing more is paid for
                raise
            finally:
                await self._pool.release(server, failure)
            if attempts > self._config.max_retries:
                raise ServerError(
                    f"a request failed {attempts} times; at last the server {failure.what}",
                    where=server.url,
                    mend="see that it runs and what its log says, then run again: what was answered is kept",
                )
            self._deliver(failure)
            if not (failure.is_of_the_server and self._pool.another_is_live(server)):
                await self._pool.pause(self._backoff.seconds(attempts))

    async def _send(self, server: Server, index: int, request: ServerRequest, attempts: int) -> ServerAnswer:
        body = request.body(server.model)
        async with (
            asyncio.timeout(self._config.timeout_seconds),
            self._http.stream("POST", server.url + request.endpoint, json=body) as response,
        ):
            data = await _read(response)
        if response.status_code != 200:
            raise of_status(response, data, server=server.url, model=body["model"], secret=self._key)
        return parse_answer(data, request, index=index, server=server.url, attempts=attempts)


async def _read(response: httpx2.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > LARGEST_ANSWER:
            raise Malformed(f"the answer is larger than {LARGEST_ANSWER} bytes")
        parts.append(part)
    return b"".join(parts)
