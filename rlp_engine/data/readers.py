"""Users' files -> records. Every row is read and judged first (`check.py`); any problem is a DataError.

So a fault in the last line is found before any model is loaded.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.check import Reading
from rlp_engine.data.records import Annotation, Demonstration, ModelOutput, PreferencePair, Prompt, Sample, SampleSet
from rlp_engine.data.shapes import Kind
from rlp_engine.randomness import generator

T = TypeVar("T")
Warn = Callable[[str], None]


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


def drawn(items: Iterable[T], limit: int, seed: int, name: str) -> list[T]:
    """`limit` of the items, each equally likely, in their order; the same for the same seed and name (of the table).

    Item i gets the i-th number of one stream, and the smallest numbers stay, so that only `limit` items
    are in memory and a longer file keeps the choice among its first rows.
    """
    stream = generator(seed, "limit", name)
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
    reading = Reading(file, kind, base, sample=0)
    records = list(reading.records())
    if reading.report.num_problems:
        raise reading.error(table)
    tell = warn or logging.getLogger(__name__).warning
    for text in reading.told():
        tell(text)
    return drawn(records, file.limit, seed, table or kind) if file.limit else records
