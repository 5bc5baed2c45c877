"""What a step read, row by row, for the case that a number of it is not finite. Shapes: R = rows of a microbatch."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rlp_engine.distributed.world import world
from rlp_engine.run.atomic import write_text
from rlp_engine.run.events import finite

Row = dict[str, Any]


def _nothing(key: int) -> Row:
    return {}


class Batch:
    """The rows of the step at work and what the models made of each, kept until the next step.

    Nothing is copied to the CPU and no text is made unless a step fails.
    """

    def __init__(self) -> None:
        self._keys: Sequence[int] = []
        self._describe: Callable[[int], Row] = _nothing
        self._noted: list[tuple[Sequence[int], dict[str, Tensor]]] = []

    def begin(self, keys: Sequence[int], describe: Callable[[int], Row] = _nothing) -> None:
        """A new step, which reads the rows `keys`. `describe`: what a person wants to see of a row."""
        self._keys, self._describe, self._noted = list(keys), describe, []

    def note(self, keys: Sequence[int], **values_R: Tensor) -> None:
        """One number a row, such as its log-probability; this rank's rows."""
        self._noted.append((list(keys), {name: values.detach() for name, values in values_R.items()}))

    def read(self) -> list[Row]:
        """A row each: its description, every rank's numbers, and of many ranks their rank. Every rank has to ask."""
        own: dict[str, dict[str, float]] = defaultdict(dict)
        for keys, values in self._noted:
            for name, tensor in values.items():
                for key, value in zip(keys, tensor.float().tolist(), strict=True):
                    own[str(key)][name] = value
        numbers: dict[str, dict[str, float]] = defaultdict(dict)
        for rank, part in enumerate(world().gather(own)):
            for key, found in part.items():
                numbers[key] |= found | ({"rank": rank} if world().size > 1 else {})
        return [{**self._describe(key), **numbers[str(key)]} for key in self._keys]


def failed_batch_path(out: Path, step: int) -> Path:
    return out / f"failed_step_{step:06d}.jsonl"


def write_failed_batch(rows: Sequence[Row], path: Path) -> None:
    """One JSON object a row; numbers that are not finite are null."""
    write_text(path, "".join(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows))


def not_finite_in(rows: Sequence[Row]) -> str:
    """Such as `logprob of 2 of 5 rows, on rank 1`; "" when every number of every row is finite."""
    counts: dict[str, int] = defaultdict(int)
    ranks: set[int] = set()
    for row in rows:
        bad = [name for name, value in row.items() if not _is_finite(value)]
        for name in bad:
            counts[name] += 1
        ranks |= {row["rank"]} if bad and "rank" in row else set()
    parts = [f"{name} of {count} of {len(rows)} rows" for name, count in counts.items()]
    where = [f"on rank{'s' * (len(ranks) > 1)} {', '.join(map(str, sorted(ranks)))}"] if ranks else []
    return ", ".join(parts + where)


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if isinstance(value, (list, tuple)) else True
