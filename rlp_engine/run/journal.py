"""A file that rows are appended to as they come, and that is whole after a crash: one JSON object a line.

A killed writer can leave a torn last line; it is cut off when the journal is opened again. Each row survives a
kill as soon as `append` returns, and a power cut after `SYNC_SECONDS` at most.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rlp_engine.errors import CorruptArtifactError
from rlp_engine.run import faults
from rlp_engine.run.atomic import fsync
from rlp_engine.run.disk import Writing
from rlp_engine.run.events import parse_json

SYNC_SECONDS = 1.0  # between fsyncs: one a row would cost more than the rows on a network file system


class Journal:
    """The rows so far are in `rows` (those of earlier writers too). One writer at a time, in a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._synced = 0.0

    def __enter__(self) -> Journal:
        """Raises CorruptArtifactError for a row before the last that is no row."""
        is_new = not self.path.exists()
        self._file = open(self.path, "ab+", buffering=0)
        if is_new:
            fsync(self.path.parent)
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        self.rows = [self._row(line, number) for number, line in enumerate(data[:whole].splitlines(), 1)]
        self._file.truncate(whole)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Raises ValueError on NaN and infinities, which JSON has no word for."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        size = self._file.seek(0, os.SEEK_END)
        with Writing(self.path, len(line)):
            while line:  # a full disk or a signal can cut a write short; the next one then says why
                line = line[self._file.write(line) :]
            faults.wrote(self.path, since=size)
        self.rows.append(dict(row))
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = parse_json(line)
        except ValueError as error:
            raise self._corrupt(number) from error
        if not isinstance(row, dict):
            raise self._corrupt(number)
        return row

    def _corrupt(self, number: int) -> CorruptArtifactError:
        return CorruptArtifactError(
            "a line of a journal cannot be read",
            where=f"{self.path}:{number}",
            mend="delete that line: what it held is asked for again",
        )
