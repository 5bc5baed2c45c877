"""A disk that is full: which file did not fit, and how many bytes it has."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType

_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Libraries in Rust and C++ raise exceptions of their own with the words of the operating system.
_WORDS = ("no space left on device", "disk quota exceeded", "file too large", "os error 28", "os error 122")


class DiskFullError(OSError):
    """`filename` does not fit. `needed`: its bytes, or of an appended line; `is_all`: False when it has still more."""

    def __init__(self, error_number: int, path: Path, needed: int, is_all: bool = True) -> None:
        super().__init__(error_number, os.strerror(error_number), str(path))
        self.needed = needed
        self.is_all = is_all


def is_full(error: BaseException) -> bool:
    """Does this say that a disk, a quota or a limit of file sizes is reached?"""
    number = error.errno if isinstance(error, OSError) else None
    return number in _ERRNOS or any(word in str(error).lower() for word in _WORDS)


class Writing:
    """In its block `needed` bytes are written to `path`. Whatever says that they do not fit becomes DiskFullError."""

    def __init__(self, path: Path, needed: int) -> None:
        self._path = path
        self._needed = needed

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None and is_full(error) and not isinstance(error, DiskFullError):  # that is of a file below
            raise DiskFullError(getattr(error, "errno", None) or errno.ENOSPC, self._path, self._needed) from error
