"""Our own row files: written once, atomically, and read back exactly.

One JSON object a line, the fields of one dataclass of `records.py`, UTF-8 with "\\n" line ends. The same
rows give the same bytes. What users bring is read by `readers.py`; here anything unexpected means that
the artifact was damaged after it was written.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rlp_engine.data.records import Demonstration, PreferencePair, Prompt, Sample
from rlp_engine.errors import CorruptArtifactError
from rlp_engine.run.atomic import write_whole

T = TypeVar("T")


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write dataclasses to `path`, one a line; the file appears in one rename, whole.

    Returns:
        The number of rows. The rows may be an iterator: they are written as they come.

    Raises:
        ValueError: a number is NaN or infinite; JSON has no such numbers.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0

    def write(partial: Path) -> None:
        nonlocal count
        with partial.open("w", encoding="utf-8", newline="\n") as handle:
            for row in rows:
                handle.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False, allow_nan=False) + "\n")
                count += 1

    write_whole(path, write)
    return count


def concatenate(parts: Iterable[Path], path: Path) -> None:
    """One of our files out of several, in their order; it appears in one rename, whole."""

    def write(partial: Path) -> None:
        with partial.open("wb") as handle:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, handle)

    write_whole(path, write)


def count_rows(path: Path) -> int:
    """Rows of one of our files, without reading what they say."""
    with open(path, "rb") as handle:
        return sum(1 for _ in handle)


def read_prompts(path: Path) -> list[Prompt]:
    """All prompts of one of our files, in file order. Raises CorruptArtifactError with file:line."""
    return list(iterate_prompts(path))


def read_demonstrations(path: Path) -> list[Demonstration]:
    """All demonstrations of one of our files, in file order. Raises CorruptArtifactError with file:line."""
    return list(iterate_demonstrations(path))


def read_pairs(path: Path) -> list[PreferencePair]:
    """All preference pairs of one of our files, in file order. Raises CorruptArtifactError with file:line."""
    return list(iterate_pairs(path))


def read_samples(path: Path) -> list[Sample]:
    """All samples of one of our files, in file order. Raises CorruptArtifactError with file:line."""
    return list(iterate_samples(path))


def iterate_prompts(path: Path) -> Iterator[Prompt]:
    """As `read_prompts`, one row in memory at a time."""
    return _iterate(path, lambda values: _build(Prompt, values))


def iterate_demonstrations(path: Path) -> Iterator[Demonstration]:
    """As `read_demonstrations`, one row in memory at a time."""
    return _iterate(path, lambda values: _build(Demonstration, values))


def iterate_pairs(path: Path) -> Iterator[PreferencePair]:
    """As `read_pairs`, one row in memory at a time."""
    return _iterate(path, lambda values: _build(PreferencePair, values))


def iterate_samples(path: Path) -> Iterator[Sample]:
    """As `read_samples`, one row in memory at a time."""
    return _iterate(path, lambda values: _build(Sample, values))


def _iterate(path: Path, build: Callable[[Any], T]) -> Iterator[T]:
    # Bytes, so that only "\n" ends a line: text mode would end one at other separators as well.
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, 1):
            try:
                yield build(json.loads(line))
            except (ValueError, TypeError) as error:
                raise CorruptArtifactError(
                    f"a row of {Path(path).name} cannot be read: {error}",
                    where=f"{path}:{number}",
                    mend="run the stage that made it again (rlp status DIR --verify lists damaged outputs)",
                ) from error


def _build(kind: type[T], values: Any) -> T:
    """A record with exactly the fields of its class. Raises TypeError or ValueError for anything else."""
    if not isinstance(values, dict):
        raise TypeError(f"want an object, found {type(values).__name__}")
    if "prompt" in values:
        values["prompt"] = _build(Prompt, values["prompt"])
    missing = {field.name for field in dataclasses.fields(kind)} - values.keys()
    if missing:
        raise ValueError(f"lacks {', '.join(sorted(missing))}")
    return kind(**values)
