"""Files and folders that are there whole or not at all, after a crash and after a power cut too.

Write to a temporary name in the same folder, fsync, rename, fsync the folder. A process that is
killed in between leaves a temporary, which `is_temporary` recognises and nobody reads.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlp_engine.run import faults
from rlp_engine.run.disk import DiskFullError, is_full

_counter = itertools.count()


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other writer uses at the moment."""
    return path.with_name(f".{path.name}.{os.getpid()}-{next(_counter)}.tmp")


def is_temporary(name: str) -> bool:
    """Is this the name of a file or folder that `atomic` was still writing?"""
    return name.startswith(".") and name.endswith(".tmp")


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left below `folder`."""
    for directory, subfolders, files in os.walk(folder):
        for name in filter(is_temporary, (*subfolders, *files)):
            path = Path(directory, name)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        subfolders[:] = [name for name in subfolders if not is_temporary(name)]


def remove_temporaries_of(path: Path) -> None:
    """Delete what killed writers of this file left beside it; another process may be writing it at the moment."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        pid = leftover.name.removeprefix(f".{path.name}.").partition("-")[0]
        if not (pid.isdecimal() and _is_running(int(pid))):
            leftover.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def fsync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    faults.reached("fsync")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some network file systems cannot do it for folders
            raise
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """`fsync` of every file and folder below, and of the folder itself."""
    for directory, _, files in os.walk(folder, topdown=False):
        for name in files:
            fsync(Path(directory, name))
        fsync(Path(directory))


def rename(source: Path, target: Path) -> None:
    """Move within one file system; when it returns, both folders remember it."""
    faults.reached("before")
    os.rename(source, target)
    faults.reached("after")
    fsync(target.parent)
    if source.parent != target.parent:
        fsync(source.parent)


def write_whole(path: Path, write: Callable[[Path], object], size: int | None = None) -> None:
    """Let `write` make a file of a temporary name, then replace `path` with it in one rename.

    A reader sees the old bytes or the new ones, never a mixture.

    Args:
        size: bytes of the file, if they are known before it is written.

    Raises:
        DiskFullError: it does not fit on the disk.
        OSError, and what `write` raises. After all of them nothing has changed, and the temporary is gone.
    """
    temporary = temporary_name(path)
    try:
        write(temporary)
        faults.wrote(temporary)
        fsync(temporary)
        faults.reached("before")
        os.replace(temporary, path)
        faults.reached("after")
    except BaseException as error:
        written = temporary.stat().st_size if temporary.exists() else 0
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and is_full(error) and not isinstance(error, DiskFullError):
            raise DiskFullError(error.errno, path, written if size is None else size, size is not None) from error
        raise
    fsync(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """`write_whole` of these bytes."""
    # Not tempfile: its files are readable by the owner alone, and others may read a run.
    write_whole(path, lambda temporary: temporary.write_bytes(data), len(data))


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of indented JSON. Raises ValueError on NaN and infinities, which JSON has no word for."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def committed_dir(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` in one rename when the block ends well, and is deleted otherwise.

    Raises:
        FileExistsError: if `path` is there already; replacing is the caller's decision.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    temporary = temporary_name(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        fsync_tree(temporary)
        rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
