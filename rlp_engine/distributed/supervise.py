"""Run a launcher to its end and leave nothing behind: stop signals, ranks that die, ranks that stay.

The launcher gets a session of its own, so that Ctrl-C in a terminal reaches only the parent. A stop goes to the
ranks over their line (parent.py); the launcher never hears of it, because it would give them 30 s and then kill.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlp_engine.distributed.parent import PARENT, Switchboard

POLL_SECONDS = 0.1
LOOK_SECONDS = 1.0  # between looks at the ranks' files, which may lie on a network disk
MEETING_SECONDS = 600.0  # importing torch from a slow network disk takes minutes; the longest wait for another node
GRACE_SECONDS = 20.0  # for the other ranks to write why they end, once one has died
LINGER_SECONDS = 5.0  # for ranks that are ending
_DEATHS = re.compile(r"(?:return|exit) ?code\s*[=:]\s*-(\d+)")
_OOM_COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


@dataclass(frozen=True)
class Ended:
    """How a launch ended, as far as the parent can see without the ranks' exit reasons."""

    launcher_code: int  # as subprocess gives it
    had_met: bool  # the ranks of this machine had joined one another
    killed_by: int  # the signal that ended a rank, as the launcher says; 0 = none, or it does not say
    out_of_memory: bool  # the kernel killed a process of this machine's control group for memory meanwhile
    too_late: bool = False  # the ranks had not met in MEETING_SECONDS


@dataclass(frozen=True)
class Watch:
    """What the parent asks and is told while it waits."""

    asked: Callable[[], int]  # the stop signal so far; 0 = none
    before_exit: Callable[[Callable[[], None]], None]  # call this when a second signal ends us
    said: Callable[[str], None]  # new text of the launcher
    has_failed: Callable[[], bool]  # has a rank failed, here or on another machine?


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    board: Switchboard,
    ranks_here: int,
    log: Path,
    watch: Watch,
) -> Ended:
    """Run a launcher with `ranks_here` ranks on this machine, and wait until it and all of them are gone.

    Args:
        ranks_here: 0 = unknown: the launcher starts ranks on other machines, which have no line to us. It is then
            asked to end them, before it is ended.
        log: for what the launcher, and ranks other than 0, print.

    Returns:
        What can be told without the ranks' files. Nothing that was started still runs.
    """
    kills = _oom_kills()
    with log.open("ab") as chatter:
        process = subprocess.Popen(
            command,
            env={**environment, PARENT: board.address},
            stdin=subprocess.DEVNULL,
            stdout=chatter,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    watch.before_exit(lambda: _kill(process.pid, board))
    is_remote = ranks_here == 0
    too_late = False
    try:
        too_late = _wait(process, board, ranks_here, log, watch)
    finally:
        if is_remote and process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        if process.poll() is not None:  # its ranks end by themselves, with a word
            _wait_for_lines(board, LINGER_SECONDS)
        _kill(process.pid, board)
        code = process.wait()
        _wait_for_lines(board, LINGER_SECONDS)
    death = _DEATHS.search(log.read_text(encoding="utf-8", errors="replace"))
    return Ended(
        launcher_code=code,
        had_met=_have_met(board, ranks_here),
        killed_by=int(death.group(1)) if death else 0,
        out_of_memory=_oom_kills() > kills,
        too_late=too_late,
    )


def _wait(process: subprocess.Popen[bytes], board: Switchboard, ranks_here: int, log: Path, watch: Watch) -> bool:
    """Until the launcher ends, or has to be ended. Returns whether that is because the ranks never met."""
    read, has_met, is_asked, is_failing = 0, False, False, False
    last_moment = time.monotonic() + MEETING_SECONDS  # when the launch is given up
    next_look = time.monotonic()
    while process.poll() is None and time.monotonic() < last_moment:
        time.sleep(POLL_SECONDS)
        read = _tell(log, read, watch)
        if not has_met and _have_met(board, ranks_here):
            has_met, last_moment = True, float("inf")
        if watch.asked() and not is_asked:
            is_asked = True
            board.ask_to_stop(watch.asked())
            if not has_met or not board.ranks:  # nothing is lost, as nobody works yet; or nobody hears us
                return False
        if not is_failing and time.monotonic() > next_look:
            next_look = time.monotonic() + LOOK_SECONDS
            is_failing = watch.has_failed()
            last_moment = min(last_moment, time.monotonic() + GRACE_SECONDS) if is_failing else last_moment
    _tell(log, read, watch)
    return process.poll() is None and not is_failing


def _tell(log: Path, read: int, watch: Watch) -> int:
    """Pass on what the log has gained, and return how long it is now."""
    with log.open("rb") as file:
        file.seek(read)
        data = file.read()
    if data:
        watch.said(data.decode(errors="replace"))
    return read + len(data)


def _have_met(board: Switchboard, ranks_here: int) -> bool:
    """Have the ranks of this machine joined the others? Those of other machines cannot say."""
    return sum(rank.has_met for rank in list(board.ranks.values())) >= ranks_here


def _kill(group: int, board: Switchboard) -> None:
    """SIGKILL to the launcher's session and to the ranks, which some launchers give sessions of their own."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    for rank in board.connected():  # connected, so that no other process has its pid by now
        with suppress(ProcessLookupError):
            os.kill(rank.pid, signal.SIGKILL)


def _wait_for_lines(board: Switchboard, seconds: float) -> None:
    """Until the ranks are gone: a line closes with its process."""
    deadline = time.monotonic() + seconds
    while board.connected() and time.monotonic() < deadline:
        time.sleep(0.02)


def _oom_kills() -> int:
    """How many processes of our control group the kernel has killed for memory so far; 0 where it does not count."""
    for path in _OOM_COUNTS:
        with suppress(OSError):
            for line in path.read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number)
    return 0
