"""JSON as RFC 8259 has it: no NaN, no Infinity, no number beyond float64, no nesting that ends in a crash.

Python's own parser takes the first three silently, and keeps the last of two equal keys. Here they are
reported for the row they stand in, and parsing goes on with the next.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rlp_engine.config.nesting import deeper_than

MOST_LEVELS = 64  # of nesting in a row; what handles rows recurses
MAX_ROW_CHARACTERS = 16 * 2**20  # of an array's element; a longer one is no text that a model could be trained on
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Parsed:
    """One value, or what is wrong with it. `fatal`: what follows cannot be read either."""

    value: Any = None
    faults: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()  # keys given twice in one object, at any depth
    fatal: bool = False
    unfinished: bool = False  # more text might make it sound


class StrictParser:
    """Parses one row at a time; not for use by two threads at once."""

    def __init__(self) -> None:
        self._faults: list[str] = []
        self._repeated: list[str] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def parse(self, text: str) -> Parsed:
        """The one value that `text` holds."""
        start = _SPACE.match(text).end()
        parsed, end = self._value(text, start)
        if parsed.fatal:
            return Parsed(faults=parsed.faults)  # the next line is another text
        if not parsed.faults and _SPACE.match(text, end).end() < len(text):
            return Parsed(faults=(f"not JSON: more text after the row (column {end + 1})",))
        return parsed

    def elements(self, pieces: Iterable[str]) -> Iterator[tuple[Parsed, int]]:
        """(element, line on which it starts) of the array whose text comes in pieces. A syntax error ends it.

        No more than one element and one piece are held at a time.
        """
        window = _Window(pieces)
        window.next_character()
        window.go(window.at + 1)  # behind the "["
        first = True
        while not (window.next_character() == "]" and first):
            line = window.line
            parsed = self._element(window)
            yield parsed, line
            if parsed.fatal:
                return
            first = False
            if window.next_character() != ",":
                break
            window.go(window.at + 1)
        found = window.next_character()
        if found != "]":
            shown = repr(window.text[window.at : window.at + 20]) if found else "the end of the file"
            fault = f"not JSON: want ',' or ']' after the row, found {shown}"
            yield Parsed(faults=(fault,), fatal=True), window.line
            return
        window.go(window.at + 1)
        if window.next_character():
            yield Parsed(faults=("not JSON: more text after the array",), fatal=True), window.line

    def _element(self, window: _Window) -> Parsed:
        """The value at which the window stands, which then stands behind it."""
        while True:
            parsed, end = self._value(window.text, window.at, window.column)
            goes_on = parsed.unfinished or (
                not parsed.fatal and end + 2 >= len(window.text)
            )  # 1 may become 1.5 or 1e+5
            size = len(window.text) - window.at
            if goes_on and size > MAX_ROW_CHARACTERS:
                what = f"the row is longer than {MAX_ROW_CHARACTERS // 2**20} MiB, or not JSON"
                return Parsed(faults=(what,), fatal=True)
            if not goes_on or not window.grow(size):
                window.go(end)
                return parsed

    def _value(self, text: str, at: int, columns_before: int = 0) -> tuple[Parsed, int]:
        self._faults.clear()
        self._repeated.clear()
        try:
            value, end = self._decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            what = "cut short" if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated") else error.msg
            faults = (f"not JSON: {what} (column {error.colno + columns_before * (error.lineno == 1)})",)
            return Parsed(faults=faults, fatal=True, unfinished=True), at
        except RecursionError:
            return Parsed(faults=("nested too deeply to be a row",), fatal=True), at
        except ValueError as error:  # a whole number of thousands of digits
            return Parsed(faults=(f"not a number we can hold: {error}",), fatal=True), at
        if text.count("[", at, end) + text.count("{", at, end) > MOST_LEVELS and deeper_than(value, MOST_LEVELS):
            return Parsed(faults=(f"nested too deeply to be a row (more than {MOST_LEVELS} levels)",)), end
        return Parsed(value, tuple(self._faults), tuple(self._repeated)), end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            self._repeated += [key for key, count in counts.items() if count > 1]
        return values

    def _constant(self, name: str) -> None:
        self._faults.append(f"{name} is not JSON")

    def _float(self, text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            self._faults.append(f"the number {text} is too large")
        return value


class _Window:
    """Text that comes in pieces, of which only the part from `at` on is kept."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = iter(pieces)
        self.text = ""
        self.at = 0
        self.line = 1  # on which `at` stands
        self.column = 0  # characters of its line that are gone from `text`

    def go(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def grow(self, more: int) -> bool:
        """At least `more` further characters, so that trying again costs no more than the text; False at the end."""
        new: list[str] = []
        while more > 0 and (piece := next(self._pieces, None)) is not None:
            new.append(piece)
            more -= len(piece)
        if not new:
            return False
        newline = self.text.rfind("\n", 0, self.at)
        self.column = self.column + self.at if newline < 0 else self.at - newline - 1
        self.text = self.text[self.at :] + "".join(new)
        self.at = 0
        return True

    def next_character(self) -> str:
        """The next that is no white space, and stands at it; "" at the end."""
        while True:
            self.go(_SPACE.match(self.text, self.at).end())
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.grow(1):
                return ""
