"""From NAME.partial to NAME: the protocol that makes a stage's folder exist only when it is whole.

    1. NAME.partial/ with attempt.json: what is being done, and by whom
    2. the stage writes beside it
    3. every file is hashed and on the disk; then stage.json is written: from here on the stage is done
    4. checkpoints/ and attempt.json are deleted, an older NAME moves to superseded/, NAME.partial becomes NAME

A crash before the end of 3 leaves work to continue; a crash in 4 leaves steps that `finish_commit` does.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from rlp_engine.errors import CorruptArtifactError, Interrupted, RlpError
from rlp_engine.run.atomic import remove_temporaries, rename, write_json
from rlp_engine.run.events import EventLog, finite
from rlp_engine.run.fingerprint import Work
from rlp_engine.run.layout import ATTEMPT_FILE, CHECKPOINTS, CONFIG_FILE, PARTIAL_SUFFIX, RunLayout, utc_now
from rlp_engine.run.manifest import (
    AttemptRecord,
    Manifest,
    current_versions,
    read_attempt,
    read_manifest,
    record_contents,
    version_changes,
)
from rlp_engine.run.resources import peak_memory_bytes, reset_peak_memory, resident_memory_bytes
from rlp_engine.safe_text import redact

_MAY_DIFFER = "numbers may differ in the last digits"

FORCED = "--force"
"""The reason of an attempt that somebody asked for although there was none."""


@dataclass(frozen=True)
class Complete:
    """A stage that is whole, and where it lies: NAME, or NAME.partial until `finish_commit` was here."""

    folder: Path
    manifest: Manifest

    @property
    def is_half_committed(self) -> bool:
        """A crash came between stage.json and the last rename."""
        return self.folder.name.endswith(PARTIAL_SUFFIX)


def complete(layout: RunLayout, name: str) -> Complete | None:
    """The newest complete state of a stage, or None. Raises CorruptArtifactError for an illegible stage.json."""
    try:
        for folder in (layout.partial(name), layout.stage(name)):
            manifest = read_manifest(folder)
            if manifest is not None:
                return Complete(folder, manifest)
    except CorruptArtifactError as error:
        error.mend = f"make it again: rlp run {layout.shown} --force {name}"
        raise
    return None


def corrupt(layout: RunLayout, name: str, folder: Path, problems: Sequence[str]) -> CorruptArtifactError:
    """The error for outputs that are not what stage.json says."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return CorruptArtifactError(
        f"an output of stage {name} is damaged: {problems[0]}{more}",
        where=str(folder),
        mend=f"put the file back, or make it again: rlp run {layout.shown} --force {name}",
    )


def finish_commit(layout: RunLayout, name: str, events: EventLog) -> None:
    """Step 4 of the protocol. May be interrupted and called again."""
    partial, final = layout.partial(name), layout.stage(name)
    remove_temporaries(partial)
    if (partial / CHECKPOINTS).exists():
        shutil.rmtree(partial / CHECKPOINTS)
    (partial / ATTEMPT_FILE).unlink(missing_ok=True)
    if final.exists():
        supersede(layout, name, events)
    rename(partial, final)


def supersede(layout: RunLayout, name: str, events: EventLog) -> Path:
    """Move a folder of the run aside; nothing is deleted. `name` is a stage, or a stage and `.partial`."""
    target = layout.new_superseded(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    rename(layout.run_dir / name, target)
    events.append("superseded", stage=name, to=str(target.relative_to(layout.run_dir)))
    return target


def put_aside_partial(layout: RunLayout, name: str, events: EventLog) -> Path | None:
    """Make room for other work on a stage. Where the unfinished work of before went; None if nothing was made yet."""
    partial = layout.partial(name)
    if not partial.exists():
        return None
    if _is_bare(partial):
        shutil.rmtree(partial)
        return None
    return supersede(layout, name + PARTIAL_SUFFIX, events)


class Attempt:
    """One go at a stage, in a `with` block that `commit` ends well. `kept_aside`: where other unfinished work went."""

    def __init__(
        self,
        layout: RunLayout,
        name: str,
        work: Work,
        fingerprint: str,
        *,
        reason: str,
        restart: bool,
        events: EventLog,
        world_size: int = 1,
    ) -> None:
        """`restart`: put unfinished work aside even if it is of the same fingerprint.

        `world_size`: how many ranks work on it. `notices` then says what a change of that number means.
        """
        self.out = layout.partial(name)
        self.kept_aside: Path | None = None
        self._layout = layout
        self._name = name
        self._restart = restart
        self._events = events
        self._world_size = world_size
        self._reason = reason
        self._work = work
        self._fingerprint = fingerprint

    def __enter__(self) -> Attempt:
        previous = read_attempt(self.out)
        if previous is not None and (self._restart or previous.fingerprint != self._fingerprint):
            previous = None
        if previous is None:
            self.kept_aside = put_aside_partial(self._layout, self._name, self._events)
        self.out.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.out)  # a killed writer's checkpoint may fill half the disk
        self._record = AttemptRecord(
            fingerprint=self._fingerprint,
            status="running",
            message="",
            reason=previous.reason if previous else self._reason,
            started=previous.started if previous else utc_now(),
            pid=os.getpid(),
            host=socket.gethostname(),
            attempt=previous.attempt + 1 if previous else 1,
            seconds=previous.seconds if previous else 0.0,
            versions=current_versions(),
            work=self._work,
            world_sizes=_with_last(previous.world_sizes if previous else [], self._world_size),
            devices=previous.devices if previous else [],
            other_versions=_other_versions(previous) if previous else [],
        )
        self._record.write(self.out)
        write_json(self.out / CONFIG_FILE, self._work.config)
        reset_peak_memory()
        self._start_rss_bytes = resident_memory_bytes()
        self._clock = time.monotonic()
        return self

    @property
    def device(self) -> str:
        """On which the stage computes; "" until `computes_on` is told."""
        return self._record.devices[-1] if self._record.devices else ""

    def computes_on(self, device: str) -> list[str]:
        """Note where this attempt computes. The notice that this is another device than before, when it is."""
        if device == self.device:
            return []
        self._record = replace(self._record, devices=[*self._record.devices, device])
        self._record.write(self.out)
        return self._notice_of(self._record.devices)

    @property
    def notices(self) -> list[str]:
        """What is to be known of work that several world sizes, devices or versions did."""
        record = self._record
        versions = [f"{_MAY_DIFFER}: continued with other versions: {change}" for change in record.other_versions]
        return [
            *self._notice_of([_in_ranks(size) for size in record.world_sizes]),
            *self._notice_of(record.devices),
            *versions,
        ]

    @staticmethod
    def _notice_of(places: Sequence[str]) -> list[str]:
        first, *later = places or [""]
        return [f"{_MAY_DIFFER}: begun on {first}, continued on {' and '.join(later)}"] if later else []

    def commit(
        self,
        summary: Mapping[str, Any],
        *,
        seed: int,
        platform: Mapping[str, Any],
        log_patterns: tuple[str, ...] = (),
        peak_device_bytes: int | None = None,
    ) -> Manifest:
        """Steps 3 and 4 of the protocol. `peak_device_bytes`: of the accelerator's memory, from whoever knows torch."""
        contents = record_contents(self.out, log_patterns)
        manifest = Manifest(
            name=self._name,
            reason=self._record.reason,
            fingerprint=self._fingerprint,
            work=self._work,
            outputs=contents.outputs,
            logs=contents.logs,
            summary=finite(summary),
            seed=seed,
            started=self._record.started,
            finished=utc_now(),
            seconds=self._seconds(),
            peak_rss_bytes=peak_memory_bytes(),
            versions=self._record.versions,
            platform=dict(platform),
            attempts=self._record.attempt,
            start_rss_bytes=self._start_rss_bytes,
            peak_device_bytes=peak_device_bytes,
            notices=self.notices,
        )
        manifest.write(self.out)
        finish_commit(self._layout, self._name, self._events)
        return manifest

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Leave a note of why it ended. On a full disk there may be none, and the next run sees a dead owner."""
        if error is None:
            return
        status = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
        message = redact(_message(error))
        with suppress(OSError):
            if (self.out / ATTEMPT_FILE).exists():  # gone when the error came within step 4: then the work is done
                replace(self._record, status=status, message=message, seconds=self._seconds()).write(self.out)
        with suppress(OSError):
            self._events.append(status, stage=self._name, message=message, seconds=round(self._seconds(), 3))

    def _seconds(self) -> float:
        return round(self._record.seconds + time.monotonic() - self._clock, 3)


def _with_last(sizes: Sequence[int], size: int) -> list[int]:
    """The world sizes so far, and this one if it is another than the last."""
    return [*sizes] if list(sizes[-1:]) == [size] else [*sizes, size]


def _other_versions(previous: AttemptRecord) -> list[str]:
    changes = ", ".join(version_changes(previous.versions, current_versions()))
    return [*previous.other_versions, *([changes] if changes else [])]


def _in_ranks(size: int) -> str:
    return f"{size} rank" if size == 1 else f"{size} ranks"


def _is_bare(partial: Path) -> bool:
    """Has nothing been made there yet?"""
    remove_temporaries(partial)
    return {path.name for path in partial.iterdir()} <= {ATTEMPT_FILE, CONFIG_FILE}


def _message(error: BaseException) -> str:
    if isinstance(error, RlpError):
        return f"{error.what} ({error.where})" if error.where else error.what
    text = str(error)
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
