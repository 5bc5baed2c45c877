"""JSON as RFC 8259 has it: no NaN, no Infinity, no number beyond float64, no nesting that ends in a crash.

Python's own parser takes the first three silently, and keeps the last of two equal keys. Here they are
reported for the row they stand in, and parsing goes on with the next.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Parsed:
    """One value, or what is wrong with it. `fatal`: what follows cannot be read either."""

    value: Any = None
    faults: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()  # keys given twice in one object, at any depth
    fatal: bool = False


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

    def elements(self, text: str) -> Iterator[tuple[Parsed, int]]:
        """(element, line on which it starts) of the array that `text` holds. A syntax error ends it."""
        at = _SPACE.match(text).end() + 1  # behind the "["
        line, counted = 1, 0
        first = True
        while True:
            at = _SPACE.match(text, at).end()
            line, counted = line + text.count("\n", counted, at), at
            if text[at : at + 1] == "]" and first:
                break
            parsed, at = self._value(text, at)
            yield parsed, line
            if parsed.fatal:
                return
            first = False
            at = _SPACE.match(text, at).end()
            if text[at : at + 1] != ",":
                break
            at += 1
        line += text.count("\n", counted, at)
        if text[at : at + 1] != "]":
            found = repr(text[at : at + 20]) if at < len(text) else "the end of the file"
            yield Parsed(faults=(f"not JSON: want ',' or ']' after the row, found {found}",), fatal=True), line
        elif _SPACE.match(text, at + 1).end() < len(text):
            yield Parsed(faults=("not JSON: more text after the array",), fatal=True), line

    def _value(self, text: str, at: int) -> tuple[Parsed, int]:
        self._faults.clear()
        self._repeated.clear()
        try:
            value, end = self._decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            what = "cut short" if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated") else error.msg
            return Parsed(faults=(f"not JSON: {what} (column {error.colno})",), fatal=True), at
        except RecursionError:
            return Parsed(faults=("nested too deeply to be a row",), fatal=True), at
        except ValueError as error:  # a whole number of thousands of digits
            return Parsed(faults=(f"not a number we can hold: {error}",), fatal=True), at
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
