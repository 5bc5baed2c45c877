"""For tests only: end this process, or fill its disk, at a chosen point of its writing.

    RLP_FAULT=KIND:N      the N-th point of that kind is the fault (N from 1)
    RLP_FAULT=KIND:N@K    the same, in rank K of a launch alone

| kind   | point                                        | what happens there                                     |
|--------|----------------------------------------------|--------------------------------------------------------|
| write  | the content of a file or line was handed over | half of it is there, and the process gets SIGKILL      |
| fsync  | before an fsync                              | SIGKILL                                                |
| before | before a rename                              | SIGKILL                                                |
| after  | after a rename, before its folder's fsync    | SIGKILL                                                |
| full   | as `write`                                   | half of it is there, and the write fails with ENOSPC   |

Without the variable every point is one comparison. tests/e2e/test_torture.py and benchmarks/torture.py use it.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Literal

Kind = Literal["write", "fsync", "before", "after", "full"]
KINDS: tuple[Kind, ...] = ("write", "fsync", "before", "after", "full")
VARIABLE = "RLP_FAULT"


class _Fault:
    """The point that is still to come."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for anything but KIND:N and KIND:N@K."""
        self.kind, _, place = text.partition(":")
        number, at, rank = place.partition("@")
        if self.kind not in KINDS or not number.isdecimal() or int(number) < 1 or bool(at) != rank.isdecimal():
            raise ValueError(f"{VARIABLE}={text}: want KIND:N or KIND:N@RANK, KIND one of {', '.join(KINDS)}")
        self.left = int(number) if rank in ("", os.environ.get("RANK")) else 0

    def is_now(self, *kinds: Kind) -> bool:
        if self.kind not in kinds or self.left == 0:
            return False
        self.left -= 1
        return self.left == 0


_fault: _Fault | None = None


def arm(text: str) -> None:
    """Set the fault of this process, as the environment variable does at its start; "" for none."""
    global _fault
    _fault = _Fault(text) if text else None


def wrote(path: Path, since: int = 0) -> None:
    """A point: what `path` holds from byte `since` on was written just now, and no fsync has been asked for."""
    if _fault is None or not _fault.is_now("write", "full"):
        return
    os.truncate(path, since + (path.stat().st_size - since) // 2)
    if _fault.kind == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    _die()


def reached(kind: Kind) -> None:
    """A point at which nothing but the end of the process can happen."""
    if _fault is not None and _fault.is_now(kind):
        _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE, ""))
