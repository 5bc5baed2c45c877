"""One writer per run directory.

The file `lock` names its owner (host, pid, start time of the process) and is held by `flock`, which the
kernel drops with the process however it ends. Where another host cannot see the flock, the owner's
heartbeat (the file's modification time) tells. A dead owner is taken over; a live one is named.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rlp_engine.errors import ResourceError, RunLockedError
from rlp_engine.run.disk import Writing
from rlp_engine.run.layout import utc_now

HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0  # an owner on another host that was silent for so long is gone

_held: set[int] = set()  # descriptors of this process's locks


def _close_in_child() -> None:
    # A forked child shares the flock and would keep a dead owner's lock alive.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


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
        return Owner(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def is_alive(owner: Owner, path: Path) -> bool:
    """Does the owner of this file still run? Elsewhere: did it touch the file lately?"""
    if owner.inode and _inode(path) != owner.inode:
        return False
    if owner.host == socket.gethostname():
        return process_start(owner.pid) == owner.process_started
    try:
        return time.time() - path.stat().st_mtime < DEAD_AFTER_SECONDS
    except OSError:
        return False


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def live_owner(path: Path) -> Owner | None:
    """Who works on the run at the moment. Only looks, so it never stands in a writer's way."""
    owner = read_owner(path)
    return owner if owner is not None and is_alive(owner, path) else None


def require_unlocked(path: Path) -> None:
    """Nobody works on the run now: a look before a question or a dry run, not a lock.

    Raises:
        RunLockedError: naming who does.
    """
    owner = live_owner(path)
    if owner is not None:
        raise _locked(path, owner)


class RunLock:
    """Held in a `with` block. `taken_over` is the dead owner whose lock was found, if any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._released = threading.Event()
        self.taken_over: Owner | None = None

    def __enter__(self) -> RunLock:
        """Raises RunLockedError if somebody else works on this run, ResourceError if nobody can."""
        try:
            self._descriptor = self._acquire()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise ResourceError(
                "cannot write in the run directory",
                where=f"{self._path}: {error.strerror}",
                mend="make it writable, or copy the run to where you may write",
            ) from error
        _held.add(self._descriptor)
        self._heart = threading.Thread(target=self._beat, name="rlp-lock", daemon=True)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._heart.join()
        self.abandon()
        _held.discard(self._descriptor)
        os.close(self._descriptor)

    def abandon(self) -> None:
        """Remove the file, and no more: for a process that ends in the next instant (see signals)."""
        if self.is_ours():  # before closing: while the flock is held nobody else can have made it theirs
            self._path.unlink()

    def is_ours(self) -> bool:
        """False when somebody removed or replaced the lock file under us."""
        return _is_at(self._descriptor, self._path)

    def check(self) -> None:
        """Raises RunLockedError if the lock was taken from us; then another process may be writing."""
        if not self.is_ours():
            raise RunLockedError(
                "the lock of this run was removed while we worked",
                where=str(self._path),
                mend="see that no other process works on the run, then run again: it continues",
            )

    def _acquire(self) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                is_held = self._hold(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if is_held:
                return descriptor
            os.close(descriptor)

    def _hold(self, descriptor: int) -> bool:
        """False: the owner removed the file between our open and our flock, so what we hold is nothing."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _locked(self._path, _read_patiently(self._path)) from None
        if not _is_at(descriptor, self._path):
            return False
        previous = read_owner(self._path)
        if previous is not None and is_alive(previous, self._path):  # a file system without flock, or another host
            raise _locked(self._path, previous)
        self.taken_over = previous
        line = json.dumps(asdict(Owner.me(descriptor))).encode() + b"\n"
        with Writing(self._path, len(line)):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, line, 0)
            os.fsync(descriptor)
        return True

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a file system that hiccups gets another chance at the next beat
                os.utime(self._descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _read_patiently(path: Path) -> Owner | None:
    """The owner, who may be just about to write its name."""
    for _ in range(20):
        owner = read_owner(path)
        if owner is not None:
            return owner
        time.sleep(0.02)
    return None


def _locked(path: Path, owner: Owner | None) -> RunLockedError:
    who = str(owner) if owner else "a process that has not said its name"
    if owner is None or owner.host == socket.gethostname():
        mend = "wait until it is done, or stop it" + (f": kill {owner.pid}" if owner else "")
    else:
        mend = f"wait until it is done; if {owner.host} is down, the run is free {DEAD_AFTER_SECONDS:.0f} s after that"
    return RunLockedError("another process works on this run", where=f"{path}: {who}", mend=mend)
