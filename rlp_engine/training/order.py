"""Which items each step trains on: a pure function of the step, so that a restart needs no saved position.

Items form one endless sequence, epoch after epoch, each epoch a permutation keyed by its number; a
minibatch may straddle two epochs, so that none is short but the last.
"""

from __future__ import annotations

import math

import numpy as np

from rlp_engine.randomness import KeyPart, permutation


def steps_of(count: int, epochs: int, size: int) -> int:
    """Minibatches of `size` that show each of `count` items `epochs` times."""
    return math.ceil(count * epochs / size)


def items_between(first: int, last: int, count: int, key: tuple[KeyPart, ...]) -> list[tuple[int, int]]:
    """(item, epoch) at the places `first` (included) to `last` (not included) of the sequence."""
    found = []
    order: np.ndarray | None = None
    for place in range(first, last):
        epoch, offset = divmod(place, count)
        if order is None or offset == 0:
            order = permutation(count, *key, epoch)
        found.append((int(order[offset]), epoch))
    return found


def minibatch_at(step: int, count: int, size: int, key: tuple[KeyPart, ...], *, epochs: int | None = None) -> list[int]:
    """Items of step `step`, counted from 1; with `epochs` the last minibatch ends where the last epoch does."""
    end = step * size if epochs is None else min(step * size, count * epochs)
    return [item for item, _ in items_between((step - 1) * size, end, count, key)]
