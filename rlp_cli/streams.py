"""stdout and stderr as libraries see them: what they print is cleaned as our own words are.

transformers, torch, `warnings` and the interpreter's last traceback quote names and texts of strangers. They write
to `sys.stderr` and `sys.stdout`, and so to the terminal, or to the launcher.log of a launch. Code in C that writes to
the descriptors does not come by here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rlp_engine.safe_text import clean, redact


class CleanStream:
    """A text stream without control sequences and secrets in what is written to it; otherwise the stream itself.

    Args:
        stream: where the text goes. A `\\r` at the start of a write, by which progress bars draw themselves anew,
            stays on a terminal; anywhere else it begins a line.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        returns = text.startswith("\r") and not text.startswith("\r\n")
        start = ("\r" if self.stream.isatty() else "\n") if returns else ""
        self.stream.write(start + clean(redact(text)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def clean_streams() -> None:
    """From now on what anybody prints is cleaned. Calling it again is no harm."""
    if not isinstance(sys.stdout, CleanStream):
        sys.stdout = CleanStream(sys.stdout)
    if not isinstance(sys.stderr, CleanStream):
        sys.stderr = CleanStream(sys.stderr)


def own(stream: TextIO) -> TextIO:
    """The stream behind, for text that is clean already and has our own colours in it."""
    return stream.stream if isinstance(stream, CleanStream) else stream
