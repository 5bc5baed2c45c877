"""Run several run directories, each in a process of its own, a few at a time.

A run's process is the ordinary command line with --json, so that its end can be told exactly: exit code, and
the error as an object. It has a session of its own: Ctrl-C in a terminal reaches only us, and we hand each
signal on once. Progress is read from the runs' events.jsonl.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from rlp_engine.run.events import parse_json
from rlp_engine.run.signals import StopSignal

POLL_SECONDS = 0.2
_STAGE_EVENTS = {"started", "finished", "adopted"}


@dataclass(frozen=True)
class Task:
    """A run to start: `command` once those of `after` have ended, however they did."""

    name: str
    run_dir: Path
    command: tuple[str, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a run's process ended. `error`: what it said (kind, what, where, mend), if it failed."""

    name: str
    exit_code: int
    seconds: float
    error: dict[str, Any] = field(default_factory=dict)


Observer = Callable[[str, dict[str, Any]], None]
"""Called with a run's name and each record of its events.jsonl about a stage: started, finished, adopted."""


def run_all(
    tasks: Sequence[Task],
    *,
    jobs: int,
    stop: StopSignal,
    on_event: Observer,
    on_end: Callable[[Outcome], None],
) -> list[Outcome]:
    """Start the tasks in their order, `jobs` at a time, and wait for them. One that fails stops no other.

    After a stop signal the runs are asked to stop, none is started, and the outcomes so far come back.
    """
    waiting, running, ended = list(tasks), [], []
    stop.before_exit(lambda: [run.signal(stop.signal_number) for run in running])  # the second signal ends them at once
    has_passed_on = False
    while waiting or running:
        if stop.requested:
            waiting.clear()
            if not has_passed_on:
                has_passed_on = True
                for run in running:
                    run.signal(stop.signal_number)
        unfinished = {task.name for task in waiting} | {run.task.name for run in running}
        while len(running) < jobs and (task := next((t for t in waiting if not unfinished & set(t.after)), None)):
            waiting.remove(task)
            running.append(_Running(task))
        for run in list(running):
            for event in run.events():
                on_event(run.task.name, event)
            if (outcome := run.outcome()) is not None:
                for event in run.events():  # what it wrote between our look and its end
                    on_event(run.task.name, event)
                running.remove(run)
                ended.append(outcome)
                on_end(outcome)
        if running:
            time.sleep(POLL_SECONDS)
    return ended


class _Running:
    """A process and what it has said so far."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._events = task.run_dir / "events.jsonl"
        self._read = self._events.stat().st_size if self._events.exists() else 0
        self._started = time.monotonic()
        # Files: a pipe would fill up, and the run would wait for us.
        self._out: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self._err: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            task.command, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err, start_new_session=True
        )

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def events(self) -> Iterator[dict[str, Any]]:
        """Whole new lines of events.jsonl."""
        try:
            with self._events.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            with suppress(ValueError):
                record = parse_json(line)
                if isinstance(record, dict) and record.get("event") in _STAGE_EVENTS:
                    yield record

    def outcome(self) -> Outcome | None:
        code = self._process.poll()
        if code is None:
            return None
        code = 128 - code if code < 0 else code  # killed by a signal: as a shell says it
        error = self._error(code) if code else {}
        self._out.close()
        self._err.close()
        return Outcome(self.task.name, code, time.monotonic() - self._started, error)

    def _error(self, code: int) -> dict[str, Any]:
        try:
            found = json.loads(_content(self._out))["error"]
            if isinstance(found, dict):
                return found
        except (ValueError, KeyError, TypeError):
            pass
        last = _content(self._err).strip().splitlines()[-1:]
        name = signal.Signals(code - 128).name if code - 128 in list(signal.Signals) else ""
        what = f"its process was ended by {name}" if name else f"its process ended with exit code {code}"
        return {"what": what, "found": "".join(last)}


def _content(file: BinaryIO) -> str:
    file.seek(0, os.SEEK_SET)
    return file.read().decode(errors="replace")
