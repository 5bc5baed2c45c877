"""events.jsonl and metrics.jsonl: one JSON object a line, appended, and readable after a crash.

A killed writer can leave a torn last line. The next append starts on a new line, so that one
line at most is lost, and readers pass over lines that are not JSON.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlp_engine.config.nesting import deeper_than
from rlp_engine.run import faults
from rlp_engine.run.atomic import fsync, write_bytes
from rlp_engine.run.disk import Writing
from rlp_engine.run.layout import utc_now
from rlp_engine.safe_text import redact

MOST_LEVELS = 32  # of nesting in JSON of a run directory
FLOAT_BITS = 1023  # a whole number of more bits may not fit into a float64


def finite(value: Any) -> Any:
    """The same JSON-able value with null for NaN, infinities and whole numbers beyond float64; numbers of numpy and
    torch become plain ones."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value.bit_length() <= FLOAT_BITS else None
    if value is None or isinstance(value, (str, bool)):
        return value
    number = value if isinstance(value, float) else value.item()  # .item(): numpy and torch scalars
    if isinstance(number, float) and not math.isfinite(number):
        return None
    return number


def parse_json(text: bytes | str) -> Any:
    """JSON of a run directory, which a stranger may have changed: null for numbers that a float64 does not hold.

    Raises:
        ValueError: it is not JSON in UTF-8, or nested deeper than anything we write. Nothing else.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if deeper_than(value, MOST_LEVELS):
        raise ValueError(f"nested deeper than {MOST_LEVELS} levels")
    return finite(value)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line in one write, after a new line if the last writer was killed within one."""
    line = json.dumps(finite(record), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with Writing(path, len(line)), open(path, "ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                line = b"\n" + line
        while line:  # a full disk or a signal can cut a write short; the next one then says why
            line = line[file.write(line) :]
        faults.wrote(path, since=size)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole record, oldest first; nothing if there is no file."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for line in file:
            try:
                record = parse_json(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


class EventLog:
    """What happened to a run, in order: {"time", "event", ...}."""

    def __init__(self, path: Path, **always: Any) -> None:
        """`always` is added to every record: the number of the launch, the stage."""
        self.path = Path(path)
        self._always = always

    def append(self, kind: str, **fields: Any) -> None:
        told = {name: redact(value) if isinstance(value, str) else value for name, value in fields.items()}
        append_line(self.path, {"time": utc_now(), "event": kind, **self._always, **told})

    def read(self) -> list[dict[str, Any]]:
        return list(read_lines(self.path))

    def bound(self, **always: Any) -> EventLog:
        """The same file, with more fields in every record."""
        return EventLog(self.path, **{**self._always, **always})


class SilentEvents(EventLog):
    """Reads as EventLog does and writes nothing: for ranks that follow, whose leader tells what happens."""

    def append(self, kind: str, **fields: Any) -> None:
        pass

    def bound(self, **always: Any) -> EventLog:
        return self


class MetricsLog:
    """One line a step: {"step": 121, "reward": 1.84, ...}. The truth that trackers are copied from."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def append(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Not fsynced; call `sync` before a checkpoint that relies on the lines so far."""
        append_line(self.path, {"step": step, **metrics})

    def sync(self) -> None:
        """Wait until every line so far is on the disk."""
        if self.path.exists():
            fsync(self.path)

    def cut_to(self, step: int) -> int:
        """Drop the lines of later steps and torn ones, so that a resumed run has no step twice. Returns how many."""
        if not self.path.exists():
            return 0
        lines = self.path.read_bytes().splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        whole = b"".join(line + b"\n" for line in kept)
        if whole != self.path.read_bytes():
            write_bytes(self.path, whole)
        return len(lines) - len(kept)

    def read(self) -> list[dict[str, Any]]:
        return list(read_lines(self.path))


def _step_of(line: bytes) -> float:
    """The line's step; infinity, which every cut drops, if the line is not a record."""
    try:
        record = parse_json(line)
    except ValueError:
        return math.inf
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else math.inf
