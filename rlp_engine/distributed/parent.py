"""The line between the `rlp` that started a launcher and the ranks that the launcher started.

A launcher stands between the two, merges and prefixes what ranks print, and loses their exit codes. So the parent
listens on a Unix socket, and each rank of its machine connects to it:

    the parent hands out its own stdout and stderr, so that rank 0 writes to the user's terminal as one process would
    the parent asks for a stop; a rank's handler for signals is then not needed, and the launcher does not notice
    the kernel closes the line when either end dies, however it dies: no rank outlives its parent

Messages are JSON, one a line. Linux and macOS; no torch.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PARENT = "RLP_PARENT"  # HOST:PATH of the socket
ATTEMPT = "RLP_ATTEMPT"  # number of the folder of logs that the parent made; not set on other machines than its own
REASONS = "RLP_EXIT_REASONS"  # folder for rank_K.exit.json, for the parent on this machine
ORPHANED = 137  # the exit code of a rank whose parent died, as if it had been killed too


@dataclass
class Rank:
    """A rank as its parent sees it."""

    rank: int
    pid: int
    has_met: bool = False  # it has joined the others
    is_connected: bool = True
    ended: float = 0.0  # when its line closed, seconds since 1970


@dataclass
class Switchboard:
    """The parent's end. A thread of its own answers; `ranks` is what is known so far."""

    folder: Path  # a short path: a socket's may have about 100 characters
    ranks: dict[int, Rank] = field(default_factory=dict)
    reasons: Path | None = None  # where the ranks of the run leave their exit reasons, once one of ours has said so
    last_words: list[dict[str, Any]] = field(default_factory=list)  # the same reasons: a full disk takes no files

    def __post_init__(self) -> None:
        self._lines: list[socket.socket] = []
        self._asked = 0
        self._lock = threading.Lock()
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(self.folder / "parent"))
        self._server.listen(512)
        threading.Thread(target=self._accept, name="rlp-switchboard", daemon=True).start()

    @property
    def address(self) -> str:
        return f"{socket.gethostname()}:{self.folder / 'parent'}"

    def ask_to_stop(self, signal_number: int) -> None:
        """Pass a stop signal on to every rank, and to those that connect later."""
        with self._lock:
            self._asked = signal_number
            for line in self._lines:
                _send(line, {"stop": signal_number})

    def connected(self) -> list[Rank]:
        return [rank for rank in list(self.ranks.values()) if rank.is_connected]

    def close(self) -> None:
        self._server.close()
        with self._lock:
            for line in self._lines:
                line.close()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(line,), name="rlp-rank", daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        rank: Rank | None = None
        with suppress(OSError), line.makefile("rb") as messages:
            for text in messages:
                message = json.loads(text)
                if "rank" in message:
                    rank = Rank(message["rank"], message["pid"])
                    self.ranks[rank.rank] = rank
                    socket.send_fds(line, [b"\n"], [1, 2])
                    with self._lock:
                        self._lines.append(line)
                        if self._asked:
                            _send(line, {"stop": self._asked})
                elif rank is not None and "met" in message:
                    rank.has_met = True
                elif "reasons" in message:
                    self.reasons = Path(message["reasons"])
                elif "ended" in message:
                    self.last_words.append(message["ended"])
        if rank is not None:
            rank.ended = time.time()
            rank.is_connected = False


class ParentLine:
    """A rank's end. The process ends at once when the parent is gone."""

    def __init__(self, path: str, rank: int, *, take_terminal: bool) -> None:
        """`take_terminal`: write to the parent's stdout and stderr from now on, not to the launcher's."""
        self._stop: Callable[[int], None] | None = None
        self._asked = 0
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
            self._say({"rank": rank, "pid": os.getpid()})
            _, terminal, _, _ = socket.recv_fds(self._socket, 1, 2)
        except OSError:  # it died before we began
            os._exit(ORPHANED)
        if len(terminal) != 2:
            os._exit(ORPHANED)
        for target, descriptor in enumerate(terminal, start=1):
            if take_terminal:
                os.dup2(descriptor, target)
            os.close(descriptor)
        threading.Thread(target=self._listen, name="rlp-parent", daemon=True).start()

    def met(self) -> None:
        """Tell the parent that the ranks have met."""
        self._say({"met": True})

    def reasons_in(self, folder: Path) -> None:
        """Tell the parent where the ranks leave their exit reasons."""
        self._say({"reasons": str(folder)})

    def ended(self, reason: Mapping[str, Any]) -> None:
        """Tell the parent why this rank ends."""
        self._say({"ended": reason})

    def on_stop(self, callback: Callable[[int], None]) -> None:
        """Call this, in another thread, with the signal's number when the parent asks for a stop; now, if it has."""
        with self._lock:
            self._stop = callback
            if self._asked:
                callback(self._asked)

    def _say(self, message: Mapping[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        with suppress(OSError), self._socket.makefile("rb") as messages:
            for text in messages:
                with self._lock:
                    self._asked = json.loads(text)["stop"]
                    if self._stop:
                        self._stop(self._asked)
        os._exit(ORPHANED)


def call_parent(environment: Mapping[str, str], rank: int) -> ParentLine | None:
    """The line to the parent; None where no `rlp` on this machine started the launcher."""
    host, _, path = environment.get(PARENT, "").partition(":")
    if not path or host != socket.gethostname():
        return None
    return ParentLine(path, rank, take_terminal=rank == 0)


def _send(line: socket.socket, message: Mapping[str, Any]) -> None:
    with suppress(OSError):  # its rank is gone
        line.sendall(json.dumps(message).encode() + b"\n")
