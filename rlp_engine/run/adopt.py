"""Take a finished stage from another run that has done the same work, instead of doing it again.

The same work means the same fingerprint: the same code version, config keys and content of inputs. Files
are hard links where the file system can make them, else copies, and each is hashed again on the way.

    1. a temporary folder beside the stage: links, config.json, and a stage.json that says `adopted_from`
    2. it becomes NAME.partial in one rename: from here on the stage is done
    3. `finish_commit`, as after any work of our own

A crash in 1 leaves a temporary that nobody reads; a crash in 3 leaves steps that the next run does. Links are
safe because a finished stage is never written to: whoever replaces it moves it aside first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlp_engine.errors import CorruptArtifactError
from rlp_engine.run.atomic import fsync_tree, rename, temporary_name, write_json
from rlp_engine.run.attempt import Complete, complete, corrupt, finish_commit, put_aside_partial
from rlp_engine.run.events import EventLog
from rlp_engine.run.layout import CONFIG_FILE, RunLayout
from rlp_engine.run.manifest import Manifest, content_problems


def find_same_work(name: str, fingerprint: str, runs: Sequence[Path]) -> tuple[RunLayout, Complete] | None:
    """The first of these runs that has finished this stage with this fingerprint.

    A run whose stage.json cannot be read has nothing to offer; its own next run says so.
    """
    for run_dir in runs:
        layout = RunLayout(run_dir)
        try:
            found = complete(layout, name)
        except CorruptArtifactError:
            continue
        if fingerprint and found and not found.is_half_committed and found.manifest.fingerprint == fingerprint:
            return layout, found
    return None


def adopt(layout: RunLayout, name: str, other: RunLayout, source: Complete, events: EventLog) -> Manifest:
    """Make the stage of `other` a stage of this run. Call it with the lock of this run.

    What the stage was before is moved to superseded/. An adopted stage that is adopted once more names the run
    that made it.

    Raises:
        CorruptArtifactError: a file is not what the other run's stage.json recorded; nothing has changed then.
        FileNotFoundError: the other run replaced the stage meanwhile; nothing has changed then.
    """
    partial = layout.partial(name)
    _remove_interrupted(partial)
    manifest = replace(source.manifest, adopted_from=_origin(layout, other, source.manifest))
    temporary = temporary_name(partial)
    temporary.mkdir(parents=True)
    try:
        files = {**manifest.outputs, **manifest.logs}
        for path in files:
            _link(source.folder / path, temporary / path)
        if problems := content_problems(temporary, files):
            raise corrupt(other, name, source.folder, problems)
        write_json(temporary / CONFIG_FILE, manifest.work.config)
        manifest.write(temporary)
        fsync_tree(temporary)
        put_aside_partial(layout, name, events)
        rename(temporary, partial)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    events.append("adopted", stage=name, source=manifest.adopted_from, fingerprint=manifest.fingerprint)
    finish_commit(layout, name, events)
    return manifest


def _origin(layout: RunLayout, other: RunLayout, manifest: Manifest) -> str:
    """Path of the run that did the work, relative to this run, so that both can be moved together."""
    origin = other.run_dir / manifest.adopted_from if manifest.adopted_from else other.run_dir
    return os.path.relpath(origin, layout.run_dir)


def _remove_interrupted(partial: Path) -> None:
    """What an adoption left that was killed in its first step."""
    for leftover in partial.parent.glob(f".{partial.name}.*.tmp"):
        shutil.rmtree(leftover)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
