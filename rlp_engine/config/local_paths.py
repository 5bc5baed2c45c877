"""Paths as users write them, looked up without ever failing: too long, a NUL inside, a folder nobody may enter."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Literal

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")  # OWNER/NAME, or OWNER/NAME@REVISION
PlaceKind = Literal["file", "folder", "special", "unreachable", "nothing"]


def expanded(path: Path | str) -> Path:
    """`~` and `~NAME` are expanded, variables are not. The `~NAME` of a user that is not there stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def kind_at(path: Path) -> PlaceKind:
    """What stands at a path. `special`: a pipe, a device or a socket, which may never end or never answer."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        return "nothing"
    except OSError:
        return "unreachable"
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "special"
