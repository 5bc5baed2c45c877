"""One writer per run directory.

The file `lock` names its owner (host, pid, start time of the process) and is held by `flock`, which the
kernel drops with the process however it ends. Where another machine cannot see the flock, the owner's
heartbeat tells (lock_owner.py). A dead owner is taken over; a live one is named.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rlp_engine.errors import ResourceError, RunLockedError
from rlp_engine.run.disk import Writing
from rlp_engine.run.lock_owner import HEARTBEAT_SECONDS, Owner, Watch, is_of_this_machine, read_owner

_SETTLE_SECONDS = 1.0  # from our name in a file that had been another machine's, to a look at whose name is there

_WATCH = Watch()
_held: set[int] = set()  # descriptors of this process's locks


def _close_in_child() -> None:
    # A forked child shares the flock and would keep a dead owner's lock alive.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def require_unlocked(path: Path, watch: Watch = _WATCH) -> None:
    """Nobody works on the run now: a look before a question or a dry run, not a lock.

    Raises:
        RunLockedError: naming who does.
    """
    owner = read_owner(path)
    if owner is not None and watch.is_alive(owner, path):
        raise _locked(path, owner)


class RunLock:
    """Held in a `with` block. `taken_over` is the dead owner whose lock was found, if any."""

    def __init__(self, path: Path, watch: Watch = _WATCH) -> None:
        self._path = path
        self._watch = watch
        self._descriptor = -1
        self._owner: Owner | None = None
        self._released = threading.Event()
        self.taken_over: Owner | None = None

    def __enter__(self) -> RunLock:
        """Raises RunLockedError if somebody else works on this run, ResourceError if nobody can."""
        try:
            self._descriptor = self._acquire()
        except OSError as error:
            raise _in_words(error, self._path) from error
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
        """False when somebody removed or replaced the lock file under us, or took it over while we slept."""
        return _is_at(self._descriptor, self._path) and self._names_us()

    def _names_us(self) -> bool:
        return read_owner(self._path) == self._owner

    def check(self) -> None:
        """Raises RunLockedError if the lock was taken from us; then another process may be writing."""
        if not self.is_ours():
            raise RunLockedError(
                "the lock of this run was removed or taken over while we worked",
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
        if previous is not None and self._watch.is_alive(previous, self._path):  # its flock is not seen here
            raise _locked(self._path, previous)
        if not _is_at(descriptor, self._path):
            return False
        self.taken_over = previous
        self._owner = Owner.me(descriptor)
        line = json.dumps(asdict(self._owner)).encode() + b"\n"
        with Writing(self._path, len(line)):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, line, 0)
            os.fsync(descriptor)
        if previous is not None and not is_of_this_machine(previous, self._path):
            self._require_to_be_the_last()
        return True

    def _require_to_be_the_last(self) -> None:
        """Another machine may have watched the same dead owner, and have written its name over ours."""
        time.sleep(_SETTLE_SECONDS)
        if not self._names_us():
            raise _locked(self._path, read_owner(self._path))

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a file system that hiccups gets another chance at the next beat
                if self.is_ours():
                    os.utime(self._descriptor)


def _in_words(error: OSError, path: Path) -> OSError | ResourceError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ResourceError(
            "cannot write in the run directory",
            where=f"{path}: {error.strerror}",
            mend="make it writable, or copy the run to where you may write",
        )
    if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
        return ResourceError(
            "the run directory is on a file system that cannot lock files",
            where=f"{path}: {error.strerror}",
            mend="mount it with flock (Lustre: -o flock or localflock; NFS: its lock service), or use another disk",
        )
    return error


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
        mend = f"wait until it is done, or stop it on {owner.host}"
    return RunLockedError("another process works on this run", where=f"{path}: {who}", mend=mend)
