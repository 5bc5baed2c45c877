"""Several servers of one model: a bound on each one's requests, and those that fail are set aside for a while.

Used from one event loop. A clock is `time.monotonic`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlp_engine.serving.failures import PassingFailure

FAILURES_IN_ROW = 3  # of a server that is there, before it is set aside


class Halted(Exception):
    """No request may be sent any more."""


@dataclass
class Server:
    """One address and how it does."""

    url: str
    model: str = ""  # what the model is called there
    in_flight: int = 0
    sent: int = 0
    failures: int = 0  # in a row
    times_aside: int = 0  # in a row
    aside_until: float = 0.0
    is_said: bool = False  # that it fails


class Backoff:
    """Pauses that double; half of each is random, so that many waiters do not come back together."""

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first, self._longest = first_seconds, longest_seconds
        self._random = random.Random()  # of timing alone: no result depends on it

    def seconds(self, failures: int) -> float:
        """After so many failures in a row, counted from 1."""
        whole = min(self._longest, self._first * 2.0 ** min(failures - 1, 60))
        return whole * self._random.uniform(0.5, 1.0)


class Pool:
    """Hands out servers, never more than `max_in_flight` requests to each."""

    def __init__(
        self, servers: Sequence[Server], max_in_flight: int, backoff: Backoff, say: Callable[[str], None]
    ) -> None:
        self._servers, self._most, self._backoff, self._say = servers, max_in_flight, backoff, say
        self._changed = asyncio.Condition()
        self._halted = asyncio.Event()

    async def acquire(self) -> Server:
        """The live server with the fewest requests, when one has room. Raises Halted."""
        async with self._changed:
            while not self._halted.is_set():
                now = time.monotonic()
                free = [s for s in self._servers if s.aside_until <= now and s.in_flight < self._most]
                if free:
                    server = min(free, key=lambda s: (s.in_flight, s.sent))
                    server.in_flight += 1
                    server.sent += 1
                    return server
                back = min((s.aside_until for s in self._servers if s.aside_until > now), default=None)
                try:
                    async with asyncio.timeout(None if back is None else back - now):
                        await self._changed.wait()
                except TimeoutError:
                    pass  # a server is back
        raise Halted

    async def release(self, server: Server, failure: PassingFailure | None) -> None:
        """Give a server's place back, and say how it did (None: well)."""
        async with self._changed:
            server.in_flight -= 1
            if failure is None:
                self._well(server)
                self._changed.notify()  # one place, one who waits
            else:
                self._failed(server, failure)
                self._changed.notify_all()  # how long the others have to wait may be another time now

    def _well(self, server: Server) -> None:
        server.failures = server.times_aside = 0
        if server.is_said:
            server.is_said = False
            self._say(f"server {server.url} answers again")

    def _failed(self, server: Server, failure: PassingFailure) -> None:
        server.failures += 1
        now = time.monotonic()
        if not failure.is_of_the_server and server.failures < FAILURES_IN_ROW:
            return
        if server.aside_until > now:  # by a request that failed just before: one reason, one pause
            server.aside_until = max(server.aside_until, now + failure.wait_seconds)
            return
        server.times_aside += 1
        server.aside_until = now + max(failure.wait_seconds, self._backoff.seconds(server.times_aside))
        if not server.is_said:
            server.is_said = True
            self._say(f"server {server.url} {failure.what}; it is given a pause, and asked again later")

    def another_is_live(self, server: Server) -> bool:
        now = time.monotonic()
        return any(other is not server and other.aside_until <= now for other in self._servers)

    async def pause(self, seconds: float) -> None:
        """Wait. Raises Halted as soon as the pool is halted."""
        try:
            async with asyncio.timeout(seconds):
                await self._halted.wait()
        except TimeoutError:
            return
        raise Halted

    async def halt(self) -> None:
        """No server is handed out any more; requests that are under way may end."""
        async with self._changed:
            self._halted.set()
            self._changed.notify_all()
