"""What a run can do without, and its deletion: the only place where a run's files are deleted for good."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlp_engine.config.outside import refuse_links_outside
from rlp_engine.errors import RunLockedError
from rlp_engine.run.atomic import is_temporary, remove_temporaries
from rlp_engine.run.events import EventLog
from rlp_engine.run.layout import CHECKPOINTS, PARTIAL_SUFFIX, RunLayout
from rlp_engine.run.lock import RunLock
from rlp_engine.run.lock_owner import is_of_this_machine, live_owner, read_owner

_MOVED_ASIDE = re.compile(r"-\d{8}T\d{6}Z(-\d+)?$")  # RunLayout.new_superseded


@dataclass(frozen=True)
class Removable:
    """A file or folder of the run."""

    path: Path
    kind: str  # superseded: replaced by a later run; checkpoints: unfinished work continues from them; temporary;
    # answers: of NLI models, asked again when they are gone
    bytes: int


def sweep(layout: RunLayout) -> None:
    """Remove what a process left that was killed when its stages were done: its lock, and what it was writing of the
    cache and the logs. A run with work left does so by itself.

    Only where there is no doubt, and the right to: its owner was a process of this machine, and is gone.
    """
    owner = read_owner(layout.lock)
    if owner is None or not is_of_this_machine(owner, layout.lock) or live_owner(layout.lock):
        return
    if os.access(layout.run_dir, os.W_OK):
        with suppress(RunLockedError), RunLock(layout.lock):  # locked: somebody has just begun
            for folder in (layout.cache, layout.logs):
                remove_temporaries(folder)


def removable(run_dir: Path, *, checkpoints: bool = False, answers: bool = False) -> list[Removable]:
    """What `rlp clean` may delete. Unfinished stages start from their first step again without their checkpoints,
    so these are listed only when asked for; checkpoints in a complete stage always are. The answers of NLI models
    are hours of work for the next `synthesize`, so they too are listed only when asked for.

    Raises:
        ConfigError: a link leads out of the run: nothing is deleted through one.
    """
    layout = RunLayout(run_dir)
    refuse_links_outside(layout.run_dir)
    found = [Removable(path, "superseded", size_of(path)) for path in _superseded(layout)]
    for directory, subfolders, files in os.walk(layout.run_dir):
        here = Path(directory)
        if here == layout.superseded:
            subfolders.clear()
            continue
        for name in sorted(subfolders):
            if name == CHECKPOINTS and (checkpoints or not here.name.endswith(PARTIAL_SUFFIX)):
                found.append(Removable(here / name, "checkpoints", size_of(here / name)))
        for name in sorted((*subfolders, *files)):
            if is_temporary(name):
                found.append(Removable(here / name, "temporary", size_of(here / name)))
        subfolders[:] = [name for name in subfolders if name != CHECKPOINTS and not is_temporary(name)]
    if answers and layout.nli_answers.is_dir():
        found.append(Removable(layout.nli_answers, "answers", size_of(layout.nli_answers)))
    return found


def remove(run_dir: Path, items: Sequence[Removable]) -> int:
    """Delete them, and return the bytes freed. Nothing else is touched.

    Raises:
        RunLockedError: a process works on the run; its temporaries and checkpoints are in use.
    """
    layout = RunLayout(run_dir)
    with RunLock(layout.lock):
        for item in items:
            assert item.path.is_relative_to(layout.run_dir), f"{item.path} is not below {layout.run_dir}"
            if item.path.is_dir() and not item.path.is_symlink():
                shutil.rmtree(item.path)
            else:
                item.path.unlink(missing_ok=True)
        _remove_empty(layout.superseded)
        freed = sum(item.bytes for item in items)
        EventLog(layout.events).append("cleaned", items=len(items), bytes=freed)
    return freed


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(Path(directory, name).lstat().st_size for directory, _, files in os.walk(path) for name in files)


def _superseded(layout: RunLayout) -> list[Path]:
    """The folders that were moved aside: the first level whose name carries a time."""
    found: list[Path] = []
    for directory, subfolders, _ in os.walk(layout.superseded):
        for name in sorted(subfolders):
            if _MOVED_ASIDE.search(name):
                found.append(Path(directory, name))
        subfolders[:] = [name for name in subfolders if Path(directory, name) not in found]
    return found


def _remove_empty(folder: Path) -> None:
    for directory, _, _ in os.walk(folder, topdown=False):
        if not os.listdir(directory):
            os.rmdir(directory)
