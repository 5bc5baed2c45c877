"""Which rows of a source count: `columns_from` adds columns, `where` keeps rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.raw_rows import Fault, Row
from rlp_engine.data.sources import raw_rows
from rlp_engine.errors import DataError


def selected_rows(file: DataFile, base: Path | None = None) -> Iterator[Row | Fault]:
    """The rows with the columns of `columns_from` that have the values of `where`; unreadable rows as they are.

    Raises:
        DataError: the two files differ in length or order, or no row has the values of `where`.
    """
    rows = _with_columns(file, base) if file.columns_from else raw_rows(file, base)
    return _matching(rows, file) if file.where else rows


def _with_columns(file: DataFile, base: Path | None) -> Iterator[Row | Fault]:
    """Row by row, the columns of the file beside."""
    rows = raw_rows(file, base)
    beside = raw_rows(DataFile(path=file.columns_from), base)
    lengths = [0, 0]
    for row, extra in zip_longest(rows, beside):
        lengths = [lengths[0] + (row is not None), lengths[1] + (extra is not None)]
        if isinstance(extra, Fault):
            raise DataError(f"columns_from: {extra.what}", where=str(extra.place), mend=extra.mend)
        if isinstance(row, Fault):
            yield row
            if row.fatal:
                return
        elif row is not None and extra is not None:
            yield _joined(row, extra)
    if lengths[0] != lengths[1]:
        raise DataError(
            f"{file.columns_from} has {lengths[1]:,} rows and {file.path} has {lengths[0]:,}",
            where=file.columns_from,
            want="one row for each row of `path`, in the same order",
            mend="make columns_from again from the same file",
        )


def _joined(row: Row, extra: Row) -> Row:
    for name in row.values.keys() & extra.values.keys():
        if row.values[name] != extra.values[name]:
            raise DataError(
                f"`{name}` differs between the file and its columns_from: their rows are not in the same order",
                where=f"{row.place} and {extra.place}",
                found=f"{_shown(row.values[name])} and {_shown(extra.values[name])}",
                mend="make columns_from again from the same file, or rename its column",
            )
    return replace(row, values={**row.values, **extra.values})


def _matching(rows: Iterator[Row | Fault], file: DataFile) -> Iterator[Row | Fault]:
    matched = False
    seen: dict[str, dict[str, None]] = {name: {} for name in file.where}  # dicts keep the order of the file
    columns: dict[str, None] = {}
    for row in rows:
        if isinstance(row, Fault):
            yield row
            continue
        if all(_equal(row.values.get(name), value) for name, value in file.where.items()):
            matched = True
            yield row
        elif not matched:
            columns.update(dict.fromkeys(row.values))
            for name, values in seen.items():
                if name in row.values and len(values) < 8:
                    values[_shown(row.values[name])] = None
    if not matched and columns:
        wanted = " and ".join(f"{name} = {value!r}" for name, value in file.where.items())
        lacking = [name for name in file.where if name not in columns]
        found = (
            f"columns {', '.join(columns)}" if lacking else "; ".join(f"{n}: {', '.join(v)}" for n, v in seen.items())
        )
        raise DataError(f"no row has {wanted}", where=file.path, found=found, mend="correct `where` of this table")


def _equal(value: Any, wanted: str | int | bool) -> bool:
    """Equal, and not merely as Python counts: True is not 1 here."""
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
