"""Answers of annotators by what was asked: no answer is paid for twice, by later attempts and stages neither.

One file, one JSON line an answer, appended and synced before the next step, so that a killed process loses nothing
that it was told. A killed writer may leave a torn line: lines that are not ours are passed over and asked again. Two
processes may write at the same time; each sees the other's lines at its next `refresh`. In memory are only the keys and
where their lines are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlp_engine.run.events import append_line, parse_json
from rlp_engine.run.fingerprint import canonical

Key = bytes
KEY_BYTES = 16  # of sha256: two of 10^9 requests share a key with a chance of 10^-21


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said, as it said it; how it is read is not decided here."""

    text: str
    finish_reason: str
    prompt_tokens: int | None  # None: the server does not count
    completion_tokens: int | None
    top: Mapping[str, float] | None  # log-probabilities of the likeliest first tokens, nats, where they were asked for
    model: str  # as the server calls it


def key_of(request: Mapping[str, Any]) -> Key:
    """The same for the same request only: endpoint, model, texts, sampling, seed."""
    return hashlib.sha256(canonical(request)).digest()[:KEY_BYTES]


class AnswerCache:
    """The answers in a file, which is made when the first one is added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[Key, tuple[int, int]] = {}  # offset and length of the line
        self._read_to = 0
        self.unreadable_lines = 0
        self.refresh()

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def get(self, key: Key) -> Answer:
        """Raises KeyError for what was not answered."""
        offset, length = self._places[key]
        with open(self._path, "rb") as file:
            file.seek(offset)
            return _parsed(file.read(length))[1]

    def add(self, key: Key, answer: Answer) -> None:
        """On the disk when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append_line(self._path, {"key": key.hex(), **asdict(answer)})
        with open(self._path, "rb") as file:
            os.fsync(file.fileno())
        self.refresh()

    def refresh(self) -> None:
        """Take in the lines that were added since, by this process or another."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):  # still being written, or torn: the next writer ends it
                    break
                self._take(line, self._read_to)
                self._read_to += len(line)

    def _take(self, line: bytes, offset: int) -> None:
        try:
            key, _ = _parsed(line)
        except (ValueError, KeyError, TypeError):
            self.unreadable_lines += bool(line.strip())
        else:
            self._places.setdefault(key, (offset, len(line)))  # the first answer stands: it may have been used


def _parsed(line: bytes) -> tuple[Key, Answer]:
    values = parse_json(line)
    key = bytes.fromhex(values.pop("key"))
    answer = Answer(**values)
    if len(key) != KEY_BYTES or not isinstance(answer.text, str):
        raise ValueError("no answer")
    return key, answer
