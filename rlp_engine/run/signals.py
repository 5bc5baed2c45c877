"""Ctrl-C and SIGTERM: once asks for an orderly stop, twice stops at once.

The handler only takes a note, because it runs between any two bytecodes of the main thread. Work
asks `stop.check()` at points that it can go on from.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from rlp_engine.errors import Interrupted

_HANDLED = (signal.SIGINT, signal.SIGTERM)
_WORDS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class StopSignal:
    """Has somebody asked us to stop? As a context manager it also listens to SIGINT and SIGTERM."""

    def __init__(
        self,
        how_to_continue: str = "run the same command again to continue",
        *,
        announce: bool = True,
        echo_seconds: float = 0.0,
    ) -> None:
        """`how_to_continue` is what people are told when the work has stopped.

        `announce`: say that the signal was heard; False for one of several processes, when another says it.
        `echo_seconds`: what comes so soon after the first signal is the same one. A terminal sends Ctrl-C to a launcher
        and to its processes, and then the launcher passes it on.
        """
        self.signal_number = 0
        self._how_to_continue = how_to_continue
        self._announce = announce
        self._echo_seconds = echo_seconds
        self._heard = 0.0
        self._pid = os.getpid()
        self._before_exit: list[Callable[[], None]] = []
        self._previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        return self.signal_number != 0

    def request(self, signal_number: int = signal.SIGTERM) -> None:
        """Ask for an orderly stop, as the first signal does. That signal may still be on its way to us."""
        self.signal_number = signal_number
        self._heard = time.monotonic()

    def check(self, where: str = "") -> None:
        """Raise if a stop was asked for. Call it where everything that is needed to go on is on the disk.

        Raises:
            Interrupted: with exit code 130 after SIGINT, 143 after SIGTERM.
        """
        if self.requested:
            what = f"stopped by {_WORDS[self.signal_number]}"
            raise Interrupted(self.signal_number, what, where=where, mend=self._how_to_continue)

    def before_exit(self, callback: Callable[[], None]) -> None:
        """Call this when a second signal ends the process: it must be quick and must wait for no lock."""
        self._before_exit.append(callback)

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in _HANDLED:
                if signal.getsignal(number) is not signal.SIG_IGN:  # ignored: nohup, or a shell's background job
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by other than Python
        self._previous.clear()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked worker, which inherited us
            if number == signal.SIGTERM:  # its parent's way to end it
                os._exit(128 + number)
            return  # Ctrl-C goes to the whole group; the parent says when to stop
        if self.requested:
            if time.monotonic() - self._heard < self._echo_seconds:
                return
            for callback in self._before_exit:
                with suppress(OSError):
                    callback()
            os._exit(128 + number)  # no clean-up: whoever asks twice does not want to wait for it
        self.signal_number = number
        self._heard = time.monotonic()
        if not self._announce:
            return
        # Straight to the descriptor: the signal may have come in the middle of a write to sys.stderr,
        # and Python's buffered files refuse to be entered twice.
        with suppress(OSError):
            os.write(2, f"\n{_WORDS[number]}: stopping at the next safe point; once more to stop at once\n".encode())
