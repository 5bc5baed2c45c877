"""Memory and disk: what a process holds, and running out of either told from other errors, without importing torch."""

from __future__ import annotations

import ctypes
import errno
import gc
import resource
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rlp_engine.errors import ResourceError, RlpError
from rlp_engine.run.disk import DiskFullError, is_full

_WRITE_ERRNOS = {errno.EROFS, errno.EACCES, errno.EPERM}
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "cublas_status_alloc_failed")


def as_resource_error(
    error: BaseException, doing: str, folder: Path, lower: Sequence[str] = ()
) -> ResourceError | None:
    """The error in a user's words if memory or disk ran out, or the folder was taken away; else None.

    Args:
        doing: who was at work: "stage ppo".
        folder: where it was writing.
        lower: config keys, with their values, that would lower the memory it takes.
    """
    text = str(error).lower()
    number = error.errno if isinstance(error, OSError) else None
    if is_full(error):
        return ResourceError(
            f"no space left on the disk ({doing})",
            where=f"{_file_of(error, folder)}: {_needed(error)}{_free(folder)}",
            mend="free some space (`rlp clean` lists what a run can do without), then run again: it continues",
        )
    if number in _WRITE_ERRNOS and _is_below(error, folder):
        return ResourceError(
            f"cannot write ({doing})",
            where=f"{_file_of(error, folder)}: {error.strerror}",
            mend="make it writable, then run again: it continues",
        )
    if number == errno.ENOENT and not folder.exists():
        return ResourceError(
            f"the run directory is gone ({doing})",
            where=str(folder),
            mend="it was moved or deleted during the work: run it again where it is now, and it continues",
        )
    is_memory = isinstance(error, MemoryError) or number == errno.ENOMEM or type(error).__name__ == "OutOfMemoryError"
    if is_memory or (isinstance(error, RuntimeError) and any(word in text for word in _MEMORY_WORDS)):
        keys = f"lower {' or '.join(lower)}" if lower else "use a smaller model or a larger machine"
        return ResourceError(
            f"out of memory ({doing})",
            where=(str(error).splitlines() or [type(error).__name__])[0],
            mend=f"{keys}, then run again: it continues",
        )
    return None


class ResourcesInWords:
    """In its `with` block, running out of memory or disk becomes a ResourceError, whatever had raised it.

    Takes the arguments of `as_resource_error`.
    """

    def __init__(self, doing: str, folder: Path, lower: Sequence[str] = ()) -> None:
        self._doing = doing
        self._folder = folder
        self._lower = lower

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, RlpError):
            return
        translated = as_resource_error(error, self._doing, self._folder, self._lower)
        if translated:
            raise translated from error


def _file_of(error: BaseException, folder: Path) -> str:
    name = getattr(error, "filename", None)
    return str(name) if isinstance(name, str) else str(folder)


def _needed(error: BaseException) -> str:
    if not isinstance(error, DiskFullError):
        return ""
    return f"it needs {'' if error.is_all else 'more than '}{error.needed:,} bytes, "


def _is_below(error: BaseException, folder: Path) -> bool:
    """An input that may not be read is another matter than an output that may not be written."""
    name = getattr(error, "filename", None)
    return isinstance(name, str) and Path(name).absolute().is_relative_to(folder)


def _free(folder: Path) -> str:
    while not folder.exists():
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 2**20:,.1f} MiB free"


def reset_peak_memory() -> None:
    """Start measuring anew, where the system lets us (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """Most memory this process held since the last reset; since its start where nothing can be reset."""
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024


def resident_memory_bytes() -> int | None:
    """Memory this process holds now; None where the system does not say (all but Linux)."""
    return _status_bytes("VmRSS")


def release_memory() -> None:
    """Drop what nobody holds any more, and give it back to the system.

    Models hang in reference cycles (a module that accelerate prepared refers to itself), and glibc keeps freed
    blocks that lie below a live one: without this a stage's peak would hold the models of the stages before it.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(name: str) -> int | None:
    """A line of /proc/self/status."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
