"""Files and hub datasets -> raw rows, each with its place. Faulty rows are handed on, not raised.

All are streamed, a JSON array too. What a file is, is told by its first bytes and not
by its name. The length of a row is bounded, and so is what a small
compressed file may grow to, so that none can fill the memory.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.columns import kind_of, shown
from rlp_engine.data.opening import first_line, hub_errors, opened, refuse_what_is_no_data
from rlp_engine.data.raw_rows import Fault, Place, Row
from rlp_engine.data.strict_json import Parsed, StrictParser
from rlp_engine.errors import DataError, ResourceError

MAX_LINE_BYTES = 16 * 2**20  # of one row; a longer one is no text that a model could be trained on
MAX_PARQUET_BYTES = 2**30  # of a compressed parquet file, after decompression: it is read whole
MAX_BATCH_BYTES = 256 * 2**20  # of PARQUET_BATCH_ROWS rows in memory
PARQUET_BATCH_ROWS = 64
PIECE_BYTES = 2**20
# Text packs 3 to 10 times smaller. A file beyond both is made to fill the memory of its reader.
MAX_EXPANSION = 200
ALWAYS_READ_BYTES = 64 * 2**20

# A time beyond the calendar, a time zone that nobody knows, bytes that are no UTF-8.
_NO_PYTHON_VALUE = (ValueError, OverflowError, KeyError)


@dataclass
class _Cursor:
    """Line and row while a file is read."""

    file: str
    line: int = 0
    row: int = 0
    number: int = 0
    packed_bytes: int = 0  # of the compressed file; 0 = it is not compressed
    unpacked_bytes: int = 0  # read so far

    def count(self, num_bytes: int) -> None:
        """Raise _Bomb when a compressed file has grown beyond what data does."""
        self.unpacked_bytes += num_bytes
        if self.packed_bytes and self.unpacked_bytes > max(MAX_EXPANSION * self.packed_bytes, ALWAYS_READ_BYTES):
            raise _Bomb


class _Bomb(Exception):
    """A compressed file grows without end."""


def raw_rows(file: DataFile, base: Path | None = None) -> Iterator[Row | Fault]:
    """Every row of the source, in order.

    Args:
        file: `path` alone is read here (with `hub_config` and `hub_split` for a hub dataset).
        base: folder that relative paths start from; None = the working directory.

    Raises:
        ConfigError: the file is missing.
        DataError: it is not data at all (an HTML page, a git-lfs pointer, an archive, a folder).
        ModelError: the hub could not be reached or has no such dataset.
    """
    if file.path.startswith("hub:"):
        return _hub_rows(file)
    return _file_rows(file.path, base)


def _file_rows(path: str, base: Path | None) -> Iterator[Row | Fault]:
    cursor = _Cursor(path)
    with opened(path, base) as raw:
        try:
            handle = _decompressed(raw, cursor)
            head = _head(handle)
            refuse_what_is_no_data(path, head)
            if head.startswith(b"PAR1"):
                yield from _parquet_rows(handle, cursor)
            elif _first_character(head) == b"[":
                yield from _array_rows(handle, cursor)
            else:
                yield from _lines(handle, cursor)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            place = Place(path, cursor.line + 1)
            yield Fault(f"the gzip stream is cut short or damaged ({error})", place, fatal=True, mend="fetch it again")
        except _Bomb:
            what = f"the file grows to more than {MAX_EXPANSION} times its size when it is decompressed"
            mend = "if it is sound, decompress it first: gzip -d FILE"
            yield Fault(what, Place(path, cursor.line + 1), fatal=True, mend=mend)
        except MemoryError as error:
            mend = "split the file, or give the process more memory"
            raise ResourceError(f"out of memory while {path} was read", where=path, mend=mend) from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}", where=path) from error


def _decompressed(handle: IO[bytes], cursor: _Cursor) -> IO[bytes]:
    if handle.read(2) == b"\x1f\x8b":
        cursor.packed_bytes = handle.seek(0, io.SEEK_END)
        handle.seek(0)
        return gzip.GzipFile(fileobj=handle, mode="rb")
    handle.seek(0)
    return handle


def _head(handle: IO[bytes]) -> bytes:
    head = handle.read(4096)
    handle.seek(0)
    return head


def _first_character(head: bytes) -> bytes:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _lines(handle: IO[bytes], cursor: _Cursor) -> Iterator[Row | Fault]:
    """JSON lines. Only "\\n" ends a line; white-space lines are skipped but counted."""
    parser = StrictParser()
    while line := handle.readline(MAX_LINE_BYTES + 1):
        cursor.line += 1
        cursor.count(len(line))
        place = Place(cursor.file, cursor.line)
        if len(line) > MAX_LINE_BYTES:
            what = f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB; what follows it was not read"
            yield Fault(what, place, fatal=True, mend="split or shorten the row")
            return
        if cursor.line == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        if cursor.number == 0 and line.strip() == b"{":
            mend = "write a JSON array [...] of rows, or one row a line"
            yield Fault("the file is one JSON object over many lines, not rows", place, fatal=True, mend=mend)
            return
        try:
            parsed = parser.parse(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            parsed = Parsed(faults=(_not_utf8(error),))
        yield _row_or_fault(parsed, place, cursor)


def _array_rows(handle: IO[bytes], cursor: _Cursor) -> Iterator[Row | Fault]:
    """The elements of a JSON array, one at a time, so that one bad element does not hide the others."""
    pieces = _Decoded(handle, cursor)
    try:
        for parsed, line in StrictParser().elements(pieces):
            cursor.row += 1
            cursor.line = line
            yield _row_or_fault(parsed, Place(cursor.file, line, cursor.row), cursor)
            if parsed.fatal:
                return
    except UnicodeDecodeError as error:
        line = pieces.lines + error.object.count(b"\n", 0, error.start) + 1
        what = _not_utf8(error, pieces.bytes)
        yield Fault(what, Place(cursor.file, line), fatal=True, mend="convert it to UTF-8")


class _Decoded:
    """The text of a file in pieces."""

    def __init__(self, handle: IO[bytes], cursor: _Cursor) -> None:
        self._handle = handle
        self._cursor = cursor
        self.lines = 0  # that ended before what is being decoded
        self.bytes = 0  # before what is being decoded

    def __iter__(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        read = 0
        while data := self._handle.read(PIECE_BYTES):
            self._cursor.count(len(data))
            self.bytes = read - len(decoder.getstate()[0])  # those of a character that the last piece began
            read += len(data)
            yield decoder.decode(data if self.bytes else data.removeprefix(b"\xef\xbb\xbf"))
            self.lines += data.count(b"\n")
        self.bytes = read - len(decoder.getstate()[0])
        decoder.decode(b"", final=True)


def _row_or_fault(parsed: Parsed, place: Place, cursor: _Cursor) -> Row | Fault:
    number, cursor.number = cursor.number, cursor.number + 1
    if parsed.faults:
        return Fault("; ".join(parsed.faults), place, fatal=parsed.fatal)
    if not isinstance(parsed.value, dict):
        return Fault(f"a row is a JSON object; this is {kind_of(parsed.value)}", place)
    return Row(parsed.value, place, number, parsed.repeated)


def _parquet_rows(handle: IO[bytes], cursor: _Cursor) -> Iterator[Row | Fault]:
    import pyarrow
    import pyarrow.parquet

    if isinstance(handle, gzip.GzipFile):  # parquet is read from its end, which a gzip stream cannot do
        data = handle.read(MAX_PARQUET_BYTES + 1)
        if len(data) > MAX_PARQUET_BYTES:
            yield Fault("the parquet file is larger than 1 GiB", Place(cursor.file), fatal=True, mend="decompress it")
            return
        handle = io.BytesIO(data)
    try:
        table = pyarrow.parquet.ParquetFile(handle)
        names = table.schema_arrow.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            what = f"columns of one name: {', '.join(map(shown, twice[:5]))}"
            yield Fault(what, Place(cursor.file), fatal=True, mend="rename them, so that it is known which is meant")
            return
        for batch in table.iter_batches(PARQUET_BATCH_ROWS):
            if batch.nbytes > MAX_BATCH_BYTES:
                what = f"{len(batch)} rows take {batch.nbytes / 2**20:,.0f} MiB, which is no text to train on"
                place = Place(cursor.file, row=cursor.row + 1)
                yield Fault(what, place, fatal=True, mend="split or shorten the rows")
                return
            for values in batch.to_pylist():
                cursor.row += 1
                yield Row(values, Place(cursor.file, row=cursor.row), cursor.row - 1)
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError, *_NO_PYTHON_VALUE) as error:
        place = Place(cursor.file, row=cursor.row + 1)
        is_value = isinstance(error, _NO_PYTHON_VALUE) and not isinstance(error, pyarrow.ArrowException)
        what = "a value of the parquet file cannot be read" if is_value else "the parquet file is damaged"
        mend = "drop the column or write it as text" if is_value else "fetch it again"
        yield Fault(f"{what}: {first_line(error)[:200]}", place, fatal=True, mend=mend)


def _hub_rows(file: DataFile) -> Iterator[Row | Fault]:
    import datasets

    name = file.path.removeprefix("hub:")
    with hub_errors(file.path):
        rows = datasets.load_dataset(name, file.hub_config or None, split=file.hub_split, streaming=True)
        for number, values in enumerate(rows):
            yield Row(dict(values), Place(file.path, row=number + 1), number)


def _not_utf8(error: UnicodeDecodeError, before: int = 0) -> str:
    """`before`: bytes of the file, or line, before those that were decoded."""
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at byte {before + error.start + 1}"
