"""Users' files, every row judged: the report of `rlp data check`, and what `readers.py` loads from.

a problem      the row is not what it should be; `load_*` raise
a warning      the row is left out, or looks wrong; `load_*` go on and say so
a note         worth knowing, nothing is wrong
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.columns import Columns, check_fields
from rlp_engine.data.cross_checks import CrossChecks
from rlp_engine.data.raw_rows import Fault, LeftOut, Place, Row
from rlp_engine.data.records import Record
from rlp_engine.data.selection import selected_rows
from rlp_engine.data.shapes import SHAPES, WANTED, Kind
from rlp_engine.errors import DataError

LISTED = 100  # problems, warnings and notes that a report lists; all are counted
LONG_TEXT = 100_000  # characters; some 25,000 tokens, far beyond any max_length


@dataclass
class CheckReport:
    """What is in a file. All findings are counted; the first LISTED of each sort are listed."""

    rows: int = 0  # rows that `where` selects, the unreadable ones included
    good_rows: int = 0  # rows without a problem or a warning
    problems: list[tuple[str, str]] = field(default_factory=list)  # (where, what)
    warnings: list[str] = field(default_factory=list)  # "where: what"
    sample: list[dict[str, Any]] = field(default_factory=list)  # the first rows as we understand them
    notes: list[str] = field(default_factory=list)  # "where: what"
    num_problems: int = 0
    num_warnings: int = 0
    num_notes: int = 0


def check_file(
    path: str | Path | DataFile,
    kind: Kind,
    fields: dict[str, str] | None = None,
    where: dict[str, str | int | bool] | None = None,
    *,
    base: Path | None = None,
    show: int = 20,
) -> CheckReport:
    """Read the whole file as `kind` and report every finding; `sample` holds the first `show` rows.

    Raises:
        ConfigError: no such file, or `fields` maps a name that is none of ours.
        ModelError: the hub could not be reached.
    """
    file = path if isinstance(path, DataFile) else DataFile(path=str(path), fields=fields or {}, where=where or {})
    reading = Reading(file, kind, base, sample=show)
    for _ in reading.records():
        pass
    return reading.report


class Reading:
    """One pass over a source: yields its records and gathers the report."""

    def __init__(self, file: DataFile, kind: Kind, base: Path | None, *, sample: int) -> None:
        check_fields(file.fields)
        self.file = file
        self.kind = kind
        self.base = base
        self.num_sample = sample
        self.report = CheckReport()
        self.faults: list[tuple[Place, DataError, bool]] = []  # the first few, for the error of `load_*`
        self.grouped: dict[str, tuple[Place, int]] = {}  # finding -> where it came first, how often
        self.checks = CrossChecks(file.where)

    def records(self) -> Iterator[Record]:
        """The rows that can be used; the report is whole when they are exhausted."""
        usable = 0
        try:
            for row in selected_rows(self.file, self.base):
                self.report.rows += 1
                if isinstance(row, Fault):
                    self._problem(row.place, DataError(row.what, mend=row.mend), fatal=row.fatal)
                    continue
                record = self._judge(row)
                if record is not None:
                    usable += 1
                    yield record
        except DataError as error:  # the file as a whole
            self._problem(Place(self.file.path), error)
        for place, what in self.checks.odd_rows_at_the_end():
            self._warning(place, what)
            self._tell(place, what)
            self.report.good_rows -= 1
        for what in self.checks.notes_at_the_end():
            self._note(Place(self.file.path), what)
        if not usable and not self.report.num_problems:
            reasons = "; ".join(self.grouped)
            what = f"none of its {self.report.rows:,} rows can be used" if self.report.rows else "there are no rows"
            self._problem(Place(self.file.path), DataError(what, found=reasons))

    def _judge(self, row: Row) -> Record | None:
        """The record of a row, or None when it is left out or bad."""
        try:
            if row.repeated:
                raise LeftOut(f"the row gives {', '.join(row.repeated)} twice; which is meant is unknown: left out")
            self.checks.split(row)
            columns = Columns(row.values, self.file.fields)
            record = SHAPES[self.kind](row, columns)
            self.checks.identity(row, columns, record)
        except DataError as error:
            self._problem(row.place, error)
            return None
        except LeftOut as reason:
            self.report.good_rows += reason.counts_as_good
            (self._note if reason.counts_as_good else self._warning)(row.place, str(reason))
            self._tell(row.place, str(reason))
            return None
        warnings = self.checks.warnings(row, record)
        for what in warnings:
            self._warning(row.place, what)
            self._tell(row.place, what)
        self._note_long_texts(row)
        self.report.good_rows += not warnings
        if len(self.report.sample) < self.num_sample:
            self.report.sample.append(dataclasses.asdict(record))
        return record

    def _note_long_texts(self, row: Row) -> None:
        for name, value in row.values.items():
            if isinstance(value, str) and len(value) > LONG_TEXT:
                self._note(row.place, f"`{name}` has {len(value):,} characters; training cuts it at max_length tokens")

    def _problem(self, place: Place, error: DataError, *, fatal: bool = False) -> None:
        self.report.num_problems += 1
        if len(self.faults) < 3:
            self.faults.append((place, error, fatal))
        if len(self.report.problems) < LISTED:
            found = f" (found: {error.found})" if error.found else ""
            self.report.problems.append((str(place), f"{error.what}{found}"))

    def _warning(self, place: Place, what: str) -> None:
        self.report.num_warnings += 1
        if len(self.report.warnings) < LISTED:
            self.report.warnings.append(f"{place}: {what}")

    def _tell(self, place: Place, what: str) -> None:
        """Keep for `told`: `load_*` say what they leave out or find odd, each sort once."""
        if what in self.grouped or len(self.grouped) < LISTED:
            first, count = self.grouped.get(what, (place, 0))
            self.grouped[what] = first, count + 1

    def _note(self, place: Place, what: str) -> None:
        self.report.num_notes += 1
        if len(self.report.notes) < LISTED:
            self.report.notes.append(f"{place}: {what}")

    def error(self, table: str) -> DataError:
        """All problems as one: how many, where the first three are, what the first is."""
        place, first, fatal = self.faults[0]
        is_of_a_row = bool(place.line or place.row)
        what = first.what
        if is_of_a_row and not fatal:
            what = f"{self.report.num_problems:,} of {self.report.rows:,} rows are not {self.kind}: {what}"
        mend = first.mend.replace("set fields.", f"--set data.{table or 'TABLE'}.fields.")
        return DataError(
            what,
            where=self._places() if is_of_a_row else first.where or self.file.path,
            found=first.found,
            want=first.want or (WANTED[self.kind] if is_of_a_row and first.found else ""),
            mend=mend or f"see all of them: rlp data check {self.file.path} --as {self.kind}",
        )

    def _places(self) -> str:
        """ "pairs.jsonl, line 88 (also 91, 407)", or rows where a file has no lines."""
        first = self.faults[0][0]
        if first.row:
            text = f"{first.file}, row {first.row}" + (f" on line {first.line}" if first.line else "")
            others = [str(place.row) for place, _, _ in self.faults[1:] if place.row]
            also = " (also row " if len(others) == 1 else " (also rows "
        else:
            text = f"{first.file}, line {first.line}"
            others = [str(place.line) for place, _, _ in self.faults[1:] if place.line]
            also = " (also "
        return text + (also + ", ".join(others) + ")" if others else "")

    def told(self) -> Iterator[str]:
        """One line for each sort of row that is left out or odd, with its first place and how many there are."""
        for what, (place, count) in self.grouped.items():
            yield f"{place}: {what}" + (f" ({count:,} such rows)" if count > 1 else "")
