"""Users' files -> records, with every fault of every row told at once.

`load_*` give the rows of one [data] table or raise DataError; `check_file` reports the same findings
without raising. Both read all rows, so that a fault in the last line is found before any model is
loaded.

    a problem      the row is not what it should be; `load_*` raise
    a warning      the row is left out, or looks wrong; `load_*` go on and say so
    a note         worth knowing, nothing is wrong
"""

from __future__ import annotations

import dataclasses
import heapq
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rlp_engine.config.schema import DataFile
from rlp_engine.data.columns import Columns, check_fields
from rlp_engine.data.cross_checks import CrossChecks
from rlp_engine.data.records import Demonstration, PreferencePair, Prompt, Sample
from rlp_engine.data.selection import selected_rows
from rlp_engine.data.shapes import SHAPES, WANTED, Annotation, Kind, LeftOut, ModelOutput, Record, SampleSet
from rlp_engine.data.sources import Fault, Place, Row
from rlp_engine.errors import DataError
from rlp_engine.randomness import generator

LISTED = 100  # problems, warnings and notes that a report lists; all are counted
LONG_TEXT = 100_000  # characters; some 25,000 tokens, far beyond any max_length

T = TypeVar("T")
Warn = Callable[[str], None]


@dataclass
class CheckReport:
    """What is in a file. `problems`, `warnings` and `notes` hold (where, what), the first LISTED of each."""

    rows: int = 0  # rows that `where` selects, the unreadable ones included
    good_rows: int = 0  # rows without a problem or a warning
    problems: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    sample: list[dict[str, Any]] = field(default_factory=list)  # the first rows as we understand them
    notes: list[tuple[str, str]] = field(default_factory=list)
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
    show: int = 1,
) -> CheckReport:
    """Read the whole file as `kind` and report every finding; `sample` holds the first `show` rows.

    Raises:
        ConfigError: no such file, or `fields` maps a name that is none of ours.
        ModelError: the hub could not be reached.
    """
    file = path if isinstance(path, DataFile) else DataFile(path=str(path), fields=fields or {}, where=where or {})
    reading = _Reading(file, kind, base, sample=show)
    for _ in reading.records():
        pass
    return reading.report


def read_rows(file: DataFile, *, kind: Kind, seed: int, base: Path | None = None) -> Iterator[Row]:
    """The raw rows of a source, after `where`, `columns_from` and `limit`, in file order.

    Raises DataError at the first row that cannot be read. `kind` and `seed` decide what `limit` draws.
    """
    rows = _raise_on_fault(selected_rows(file, base))
    yield from drawn(rows, file.limit, seed, kind) if file.limit else rows


def load_prompts(
    file: DataFile, seed: int, *, base: Path | None = None, table: str = "", warn: Warn | None = None
) -> list[Prompt]:
    """The instructions of a [data] table, with reference answers where the file has them.

    Args:
        seed: decides which rows `file.limit` keeps.
        base: folder that relative paths start from; None = the working directory.
        table: name of the table, for messages ("unlabeled").
        warn: is told of rows that are left out; None = the log.

    Raises:
        DataError: with the count of bad rows, where the first three are, and how to mend it.
        ConfigError: a file is missing.
    """
    return _load(file, "prompts", seed, base, table, warn)


def load_demonstrations(
    file: DataFile, seed: int, *, base: Path | None = None, table: str = "demonstrations", warn: Warn | None = None
) -> list[Demonstration]:
    """Instructions with the answers to imitate; as `load_prompts`."""
    return _load(file, "demonstrations", seed, base, table, warn)


def load_preferences(
    file: DataFile, seed: int, *, base: Path | None = None, table: str = "preferences", warn: Warn | None = None
) -> list[PreferencePair]:
    """Labelled pairs; draws, equal answers and empty chosen ones are left out; as `load_prompts`."""
    return _load(file, "preferences", seed, base, table, warn)


def load_samples(
    file: DataFile, seed: int = 0, *, base: Path | None = None, warn: Warn | None = None
) -> list[SampleSet | Sample]:
    """Sets of answers to one instruction, or a samples file of ours; as `load_prompts`."""
    return _load(file, "samples", seed, base, "", warn)


def load_outputs(
    file: DataFile, seed: int = 0, *, base: Path | None = None, warn: Warn | None = None
) -> list[ModelOutput]:
    """AlpacaEval's model outputs; as `load_prompts`."""
    return _load(file, "outputs", seed, base, "", warn)


def load_annotations(
    file: DataFile, seed: int = 0, *, base: Path | None = None, warn: Warn | None = None
) -> list[Annotation]:
    """AlpacaEval's annotations; null preferences are dropped (METHOD 6.1); as `load_prompts`."""
    return _load(file, "annotations", seed, base, "", warn)


def drawn(items: Iterable[T], limit: int, seed: int, kind: str) -> list[T]:
    """`limit` of the items, each equally likely, in their order; the same for the same seed and kind.

    Item i gets the i-th number of one stream, and the smallest numbers stay, so that only `limit` items
    are in memory and a longer file keeps the choice among its first rows.
    """
    stream = generator(seed, "limit", kind)
    kept: list[tuple[float, int, T]] = []
    numbers: np.ndarray = np.empty(0)
    for index, item in enumerate(items):
        if index % 4096 == 0:
            numbers = stream.random(4096)
        entry = (-float(numbers[index % 4096]), index, item)
        if len(kept) < limit:
            heapq.heappush(kept, entry)
        elif entry > kept[0]:
            heapq.heapreplace(kept, entry)
    return [item for _, _, item in sorted(kept, key=lambda entry: entry[1])]


def _load(file: DataFile, kind: Kind, seed: int, base: Path | None, table: str, warn: Warn | None) -> list[Any]:
    reading = _Reading(file, kind, base, sample=0)
    records = list(reading.records())
    if reading.report.num_problems:
        raise reading.error(table)
    tell = warn or logging.getLogger(__name__).warning
    for text in reading.warnings_in_words():
        tell(text)
    return drawn(records, file.limit, seed, kind) if file.limit else records


def _raise_on_fault(rows: Iterable[Row | Fault]) -> Iterator[Row]:
    for row in rows:
        if isinstance(row, Fault):
            raise DataError(row.what, where=str(row.place), mend=row.mend)
        yield row


class _Reading:
    """One pass over a source: yields its records and gathers the report."""

    def __init__(self, file: DataFile, kind: Kind, base: Path | None, *, sample: int) -> None:
        check_fields(file.fields)
        self.file = file
        self.kind = kind
        self.base = base
        self.num_sample = sample
        self.report = CheckReport()
        self.faults: list[tuple[Place, DataError, bool]] = []  # the first few, for the error of `load_*`
        self.checks = CrossChecks(file.where)

    def records(self) -> Iterator[Record]:
        try:
            for row in selected_rows(self.file, self.base):
                self.report.rows += 1
                if isinstance(row, Fault):
                    self._problem(row.place, DataError(row.what, mend=row.mend), fatal=row.fatal)
                    continue
                record = self._judge(row)
                if record is not None:
                    yield record
        except DataError as error:  # the file as a whole
            self._problem(Place(self.file.path), error)
        for place, what in self.checks.odd_rows_at_the_end():
            self._warning(place, what)
            self.report.good_rows -= 1
        for what in self.checks.notes_at_the_end():
            self._note(Place(self.file.path), what)
        if not self.report.rows and not self.report.num_problems:
            self._problem(Place(self.file.path), DataError("there are no rows"))

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
            return None
        warnings = self.checks.warnings(row, record)
        for what in warnings:
            self._warning(row.place, what)
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
            self.report.warnings.append((str(place), what))

    def _note(self, place: Place, what: str) -> None:
        self.report.num_notes += 1
        if len(self.report.notes) < LISTED:
            self.report.notes.append((str(place), what))

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

    def warnings_in_words(self) -> Iterator[str]:
        """One line for each kind of warning, with its count and first place."""
        groups: dict[str, list[str]] = {}
        for place, what in self.report.warnings:
            groups.setdefault(what, []).append(place)
        for what, places in groups.items():
            more = f" ({len(places)} such rows)" if len(places) > 1 else ""
            yield f"{places[0]}: {what}{more}"
        unlisted = self.report.num_warnings - len(self.report.warnings)
        if unlisted:
            yield f"{self.file.path}: {unlisted} more warnings; rlp data check lists them"
