"""What an NLI model answered, by what it was asked: nothing is asked twice, by later attempts and stages neither.

The files lie in the run's .cache, outside the stages: an interrupted `synthesize` goes on from them, another gamma or
a second branch asks nothing that was asked before, and no output of a stage depends on them. One file for each block of
prompts, model and setting that decides an answer (`AnswerFolder.open`), one JSON line for each forward pass. A block's
file is held in memory while its block is worked on, and written by the one rank that does. A killed writer may leave a
torn line, and a disk may damage one: lines that are not ours are passed over and their questions asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from rlp_engine.methods.entailment_clusters import Label
from rlp_engine.run.events import append_line, parse_json
from rlp_engine.run.fingerprint import sha256_of_json

KEY_BYTES = 16  # of sha256: two of 10^9 questions share a key with a chance of 10^-21

Key = bytes


class Answer(NamedTuple):
    """The label of one (premise, hypothesis), and the tokens of the pair before any are cut."""

    label: Label
    tokens: int


def key_of(premise: str, hypothesis: str) -> Key:
    """The same for the same two texts only. The question is in both, cut as the model is shown it."""
    return hashlib.sha256(json.dumps([premise, hypothesis]).encode()).digest()[:KEY_BYTES]


class Answers:
    """All answers that are known; those of a file are `used` once somebody wants them."""

    def __init__(self, path: Path | None = None, header: Mapping[str, Any] | None = None) -> None:
        """
        Args:
            path: read now and appended to; None = remember in memory only.
            header: first line of a new file, for people: what the answers depend on.
        """
        self.used: dict[Key, Answer] = {}
        self.num_asked = 0  # of those used, what the model answered since this object was made
        self.unreadable_lines = 0
        self._path, self._header = path, header or {}
        self._stored: dict[Key, Answer] = {}
        if path is not None and path.exists():
            for record in self._lines(path):
                self._stored.update(record)

    @property
    def num_recalled(self) -> int:
        """Of those used, what the file answered."""
        return len(self.used) - self.num_asked

    def stored(self, key: Key) -> Answer | None:
        """The file's answer, if it was not used yet."""
        return self._stored.get(key)

    def use(self, key: Key) -> None:
        """Take the file's answer over."""
        self.used[key] = self._stored.pop(key)

    def add(self, answers: Mapping[Key, Answer]) -> None:
        """What one forward pass answered. In the file when this returns, so that a killed process loses none of it."""
        self.used.update(answers)
        self.num_asked += len(answers)
        if self._path is not None:
            if not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                append_line(self._path, self._header)
            append_line(self._path, {"answers": {key.hex(): list(answer) for key, answer in answers.items()}})

    def _lines(self, path: Path) -> Iterator[dict[Key, Answer]]:
        with open(path, "rb") as file:
            for number, line in enumerate(file):
                if number == 0 and b'"answers"' not in line:
                    continue  # the header
                try:
                    yield {bytes.fromhex(key): _answer(*value) for key, value in parse_json(line)["answers"].items()}
                except (ValueError, KeyError, TypeError, AttributeError):
                    self.unreadable_lines += 1


@dataclass(frozen=True)
class AnswerFolder:
    """Where a run keeps answers."""

    path: Path
    model: str  # digest of a local model's files, or the hub id, whose commit is known once it is loaded
    warn: Callable[[str], None]

    def open(self, block: str, **decisive: Any) -> Answers:
        """The answers to one block of prompts under these settings: everything that decides a label, beside the texts.

        Args:
            block: a digest of what is in it, or "".
        """
        header = {"model": self.model, **decisive}
        path = self.path / f"{sha256_of_json({**header, 'block': block})[:16]}.jsonl"
        answers = Answers(path, header)
        if answers.unreadable_lines:
            self.warn(f"unreadable lines in {path}: {answers.unreadable_lines}; their questions are asked again")
        return answers


def _answer(label: Any, tokens: Any) -> Answer:
    if label not in get_args(Label) or type(tokens) is not int or tokens < 1:
        raise ValueError(f"no answer: {label!r}, {tokens!r}")
    return Answer(label, tokens)
