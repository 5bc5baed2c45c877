"""Who owns a lock file, and whether that process still works.

Of a process on this machine the kernel knows. Of one on another the heartbeat tells: its owner touches the file every
HEARTBEAT_SECONDS, and whoever wants the lock watches it for up to DEAD_AFTER_SECONDS by its own monotonic clock. What
counts is that the file's time changes, never which time it shows: machines' clocks may be hours apart, and may jump.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlp_engine.run.events import parse_json
from rlp_engine.run.layout import utc_now

HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0  # an owner on another machine that was silent for so long while we watched is gone
_MOUNTS = Path("/proc/self/mountinfo")
_LOCAL_KINDS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"})
_LOOK_SECONDS = 0.25  # between looks at a heart

Beat = tuple[int, int, int]  # device and inode of a lock file, and its modification time in ns
_seen: dict[Beat, float] = {}  # when this process saw a beat first, by its monotonic clock


@dataclass(frozen=True)
class Owner:
    """A process, named so that a later one with the same pid is not taken for it."""

    host: str
    pid: int
    process_started: str
    since: str
    inode: int = 0  # of the lock file: in a copy of the run directory the owner's name is not the owner. 0: not told

    @classmethod
    def me(cls, descriptor: int) -> Owner:
        """`descriptor`: of the lock file."""
        inode = os.fstat(descriptor).st_ino
        return cls(socket.gethostname(), os.getpid(), process_start(os.getpid()) or "", utc_now(), inode)

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}, since {self.since}"


def process_start(pid: int) -> str | None:
    """A text that two processes with one pid do not share; None if there is no such process, or only its corpse."""
    if platform.system() == "Linux":
        try:
            # After the command's name, which may hold spaces and brackets: state is field 3, start time field 22.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"
    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def read_owner(path: Path) -> Owner | None:
    """Whom the lock file names; None if there is no file, or nothing legible in it."""
    try:
        return Owner(**parse_json(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def is_of_this_machine(owner: Owner, path: Path, mounts: Path = _MOUNTS) -> bool:
    """Of this boot, or of an earlier one: on a disk that other machines may see, that could be a twin of our name."""
    if owner.host != socket.gethostname():
        return False
    own_boot, boot = (_boot(text) for text in (process_start(os.getpid()) or "", owner.process_started))
    return boot == own_boot or "" in (boot, own_boot) or _is_on_local_disk(path, mounts)


def _is_on_local_disk(path: Path, mounts: Path) -> bool:
    """Surely, that is: False where the system does not say (all but Linux)."""
    try:
        device = path.stat().st_dev
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return False
    place = f"{os.major(device)}:{os.minor(device)}"
    kinds = {line.partition(" - ")[2].split(" ")[0] for line in lines if line.split(" ")[2:3] == [place]}
    return bool(kinds) and kinds <= _LOCAL_KINDS


def _boot(process_started: str) -> str:
    """ "" where the start of a process is told without its boot."""
    boot, _, ticks = process_started.rpartition(":")
    return boot if ticks.isdecimal() else ""


def _still_runs(owner: Owner, path: Path) -> bool:
    """Of an owner on this machine: is its process there, and is this the file that it made, not a copy?"""
    try:
        is_original = owner.inode in (0, path.stat().st_ino)
    except OSError:
        return False
    return is_original and process_start(owner.pid) == owner.process_started


def live_owner(path: Path) -> Owner | None:
    """Who works on the run at the moment, to be shown. Only looks, so it never stands in a writer's way.

    Whether an owner on another machine lives, one look cannot tell: it is shown if its heart beat lately by the clocks
    of both, which may disagree. Nothing may be decided by that.
    """
    owner = read_owner(path)
    if owner is None:
        return None
    if is_of_this_machine(owner, path):
        return owner if _still_runs(owner, path) else None
    with suppress(OSError):
        return owner if abs(time.time() - path.stat().st_mtime) < DEAD_AFTER_SECONDS else None
    return None


@dataclass(frozen=True)
class Watch:
    """How to find out whether an owner on another machine lives: by a change of its file while we look."""

    seconds: float = DEAD_AFTER_SECONDS
    told: Callable[[str], object] = lambda text: None  # gets one line, as this may take a while
    meanwhile: Callable[[], object] = lambda: None  # called again and again; what it raises ends the watch

    def is_alive(self, owner: Owner, path: Path) -> bool:
        """Does the owner of this file still run? Of one on this machine that is known at once."""
        return _still_runs(owner, path) if is_of_this_machine(owner, path) else self._beats(owner, path)

    def _beats(self, owner: Owner, path: Path) -> bool:
        first = _beat_of(path)
        if first is None:
            return False
        since = _seen.setdefault(first, time.monotonic())
        if time.monotonic() - since < self.seconds:
            self.told(f"the lock names {owner}: watching for up to {self.seconds:.0f} s whether it still works")
        while time.monotonic() - since < self.seconds:
            self.meanwhile()
            time.sleep(_LOOK_SECONDS)
            if (now := _beat_of(path)) != first:
                return now is not None and now[:2] == first[:2]
        return False


def _beat_of(path: Path) -> Beat | None:
    """Device, inode and modification time; None if the file is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # NFS asks the server at an open, not at every stat
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino, status.st_mtime_ns
    finally:
        os.close(descriptor)
