"""Requests under way: an event loop in a thread of its own, on which each is sent until it is answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

import httpx2

from rlp_engine.config.sections.generation import ServerConfig
from rlp_engine.errors import ServerError
from rlp_engine.serving.connect import CONNECT_SECONDS, headers_of, no_proxy_for
from rlp_engine.serving.failures import PassingFailure, of_exception, of_status, without_key
from rlp_engine.serving.messages import Malformed, ServerAnswer, ServerRequest, parse_answer
from rlp_engine.serving.pool import Backoff, Pool, Server

LARGEST_ANSWER = 64 * 1024 * 1024  # bytes: far beyond any answer, and a runaway server does not fill the memory


class Work:
    """In a `with` block: at its end nothing is under way any more.

    Delivers, from the loop's thread: texts to tell people, a PassingFailure for each retry, and for each request
    its outcome.
    """

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

    def __enter__(self) -> Work:
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
            except (httpx2.RequestError, TimeoutError, Malformed) as error:
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
            data = without_key(await _read(response), self._key)
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
