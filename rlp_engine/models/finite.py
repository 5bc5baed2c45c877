"""What a model says must be a number: NaN compares as a silent loss, and an argmax over NaN is a label.

Training has its own checks, with the step and its rows (training/health.py); these are for models that only answer,
score or compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from rlp_engine.errors import HealthError


def require_finite(values: Iterable[float], what: str, *, model: str, place: Callable[[int], str]) -> None:
    """Raises HealthError for the first value that is NaN or infinite.

    Args:
        what: one of the values, in words: "the log-probability of an answer".
        model: whose it is: a name, a folder or a hub id.
        place: index of a value -> where it comes from.
    """
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise HealthError(
                f"{what} is {value}",
                where=f"{model}, {place(index)}",
                mend="look for NaN and for huge numbers among its weights, or load it in a dtype of a wider range",
            )
