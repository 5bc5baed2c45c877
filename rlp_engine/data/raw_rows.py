"""A raw row of a source, its place, and a row that cannot be read or is of no use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands. Lines and rows count from 1; 0 = not known or the whole file."""

    file: str
    line: int = 0
    row: int = 0

    def __str__(self) -> str:
        """FILE:LINE, and the row where lines do not tell rows apart."""
        text = f"{self.file}:{self.line}" if self.line else self.file
        return f"{text} (row {self.row})" if self.row else text


@dataclass(frozen=True, slots=True)
class Row:
    """One raw row. `number` counts rows from 0 over the whole file, the faulty ones included."""

    values: dict[str, Any]
    place: Place
    number: int
    repeated: tuple[str, ...] = ()  # keys that the row gives twice; the last value stands in `values`

    @property
    def where(self) -> str:
        return str(self.place)


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be read; `fatal` when nothing after it can be either."""

    what: str
    place: Place
    fatal: bool = False
    mend: str = ""


class LeftOut(Exception):
    """The row is sound, and no use: it is left out, and the reason is told."""

    def __init__(self, why: str, *, counts_as_good: bool = False) -> None:
        super().__init__(why)
        self.counts_as_good = counts_as_good
