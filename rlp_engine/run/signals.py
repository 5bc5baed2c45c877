"""Ctrl-C, SIGTERM and a closed terminal: once asks for an orderly stop, twice stops at once.

The handler only takes a note, because it runs between any two bytecodes of the main thread. Work
asks `stop.check()` at points that it can go on from.

Python runs handlers when the main thread comes back to it, and that may take long: a call into torch, or a sleep that
began just after the signal came. So a thread of ours hears of signals too, by the descriptor that Python's C handler
writes their numbers to (signal.set_wakeup_fd), and it is this thread that ends the process at the second one.
"""

from __future__ import annotations

import errno
import os
import signal
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from rlp_engine.errors import Interrupted

WORDS: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP (closed terminal)"}

_is_listening = False


def _be_deaf_in_child() -> None:
    # A forked worker has our descriptor: what it gets, such as the Ctrl-C of its group, would count as ours.
    if _is_listening:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_be_deaf_in_child)


def _forget_lost_terminal() -> None:
    """What is still said to a terminal that was closed goes to nowhere, or every print would be an error."""
    for stream in (0, 1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, stream)
                os.close(nowhere)


class StopSignal:
    """Has somebody asked us to stop? As a context manager it also listens to these signals."""

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
        self._first = threading.Lock()  # whoever has it took note of the first signal; it is never given back
        self._pid = os.getpid()
        self._before_exit: list[Callable[[], None]] = []
        self._previous: dict[int, object] = {}
        self._ears: threading.Thread | None = None

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
            Interrupted: with exit code 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP.
        """
        if self.requested:
            what = f"stopped by {WORDS[self.signal_number]}"
            raise Interrupted(self.signal_number, what, where=where, mend=self._how_to_continue)

    def before_exit(self, callback: Callable[[], None]) -> None:
        """Call this when a second signal ends the process: it must be quick and must wait for no lock."""
        self._before_exit.append(callback)

    def __enter__(self) -> StopSignal:
        global _is_listening
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._ears = threading.Thread(target=self._listen, name="rlp-signals", daemon=True)
            self._ears.start()
            self._previous_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            _is_listening = True
            for number in WORDS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # ignored: nohup, or a shell's background job
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        global _is_listening
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by other than Python
        self._previous.clear()
        if self._ears and os.getpid() == self._pid:
            signal.set_wakeup_fd(self._previous_writer)
            _is_listening = self._previous_writer != -1
            os.set_blocking(self._writer, True)
            os.write(self._writer, b"\0")  # ends the thread; closing would not: forked workers hold the pipe too
            self._ears.join()
            os.close(self._writer)
            os.close(self._reader)
            self._ears = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() == self._pid:
            self._note(number)
        elif number == signal.SIGTERM:  # we are a forked worker, and this is its parent's way to end it
            os._exit(128 + number)
        # Ctrl-C goes to the whole group; the parent says when its workers stop

    def _listen(self) -> None:
        """In the thread: every signal as it comes, until a 0."""
        is_first, heard = True, 0.0
        while number := os.read(self._reader, 1)[0]:
            if number not in WORDS:
                continue
            self._note(number)
            if is_first and self._first.locked():  # unlocked: `request` came before it
                heard = time.monotonic()
            elif time.monotonic() - max(heard, self._heard) >= self._echo_seconds:
                for callback in self._before_exit:
                    with suppress(OSError):
                        callback()
                os._exit(128 + number)  # no clean-up: whoever asks twice does not want to wait for it
            is_first = False

    def _note(self, number: int) -> None:
        """Of the first signal; the main thread and ours both hear of it."""
        if self.requested or not self._first.acquire(blocking=False):
            return
        self._heard = time.monotonic()
        self.signal_number = number
        if number == signal.SIGHUP:
            _forget_lost_terminal()
        if not self._announce:
            return
        # Straight to the descriptor: the signal may have come in the middle of a write to sys.stderr,
        # and Python's buffered files refuse to be entered twice.
        with suppress(OSError):
            os.write(2, f"\n{WORDS[number]}: stopping at the next safe point; once more to stop at once\n".encode())
