"""Win-rates against a reference, and differences between two policies on the same instructions.

A preference is a number in [1, 2], as AlpacaEval writes it: 2 = our policy's answer (output 2) is better,
1 = the reference (output 1) is, 1.5 = draw, in between = a judge's probability (METHOD 6.1).
Everything here is in per cent or percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlp_engine import randomness
from rlp_engine.errors import DataError

DRAW = 1.5
BOOTSTRAP_BLOCK = 500  # resamples drawn at once: 500 x 20,000 instructions stay below 100 MB


@dataclass(frozen=True)
class WinRate:
    """`win_rate` and `standard_error` in per cent; `standard_error` is over instructions, not over seeds; None for a
    single one."""

    win_rate: float
    standard_error: float | None
    wins: int
    losses: int
    draws: int
    n: int  # judged instructions
    dropped: int  # instructions whose judgement could not be read


@dataclass(frozen=True)
class PairedDifference:
    """a - b in percentage points, over the instructions that both were judged on. `standard_error`: None for one."""

    difference: float
    standard_error: float | None
    low: float
    high: float
    n: int


def win_rate(preferences: Sequence[float | None]) -> WinRate:
    """How often our policy beats the reference; a draw is half a win.

        win_rate = 100 mean(p - 1),  standard_error = 100 std(p) / sqrt(N)  with N - 1 in the variance
        (AlpacaEval, `metrics/winrate.py`; METHOD 6.1)

    Args:
        preferences: one number an instruction. None and NaN (a judgement that could not be read) are dropped
            from N, not counted as losses; 0 is the draw of old AlpacaEval files.

    Raises:
        DataError: if a number is neither 0 nor in [1, 2], or if none is left.
    """
    values = _preferences(preferences)
    kept = values[~np.isnan(values)]
    if kept.size == 0:
        raise DataError(
            "no judgement to make a win-rate of",
            found=f"{values.size} rows, none of them a number",
            mend="look at what the judge answers, or ask another one",
        )
    error = _standard_error(kept)
    return WinRate(
        win_rate=100 * float(np.mean(kept - 1)),
        standard_error=None if error is None else 100 * error,
        wins=int(np.sum(kept > DRAW)),
        losses=int(np.sum(kept < DRAW)),
        draws=int(np.sum(kept == DRAW)),
        n=int(kept.size),
        dropped=int(values.size - kept.size),
    )


def paired_bootstrap(
    a: Sequence[float | None],
    b: Sequence[float | None],
    *,
    key: tuple[str | int, ...],
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> PairedDifference:
    """Difference of two win-rates on the same instructions, with a percentile interval (Efron 1979).

    Pairing matters: both policies meet the same easy and hard instructions, and that share of the variance
    cancels. `standard_error` is the paired one, std(a - b) / sqrt(N).

    Args:
        a, b: preferences; entry i of both is the same instruction. Rows that either lacks are left out.
        key: what the resampling is keyed by (seed, names), so that the interval is always the same.

    Raises:
        DataError: if the lengths differ or no instruction was judged for both.
    """
    if len(a) != len(b):
        raise DataError(
            "two policies were judged on different instructions", found=f"{len(a)} and {len(b)} preferences"
        )
    difference = _preferences(a) - _preferences(b)
    judged = difference[~np.isnan(difference)]
    if judged.size == 0:
        raise DataError(
            "no instruction was judged for both policies",
            found=f"{difference.size} instructions, each without a readable judgement of one of them",
            mend="look at what the judge answers, or ask another one",
        )
    difference = 100 * judged
    random = randomness.generator("paired-bootstrap", *key)
    means = np.empty(resamples)
    for start in range(0, resamples, BOOTSTRAP_BLOCK):
        rows = min(BOOTSTRAP_BLOCK, resamples - start)
        drawn = random.integers(0, difference.size, size=(rows, difference.size))
        means[start : start + rows] = difference[drawn].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return PairedDifference(
        difference=float(difference.mean()),
        standard_error=_standard_error(difference),
        low=float(low),
        high=float(high),
        n=int(difference.size),
    )


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and std / sqrt(N), for numbers that are one per seed; the error of a single number is NaN."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise DataError("no value to take a mean of")
    error = _standard_error(array)
    return float(array.mean()), math.nan if error is None else error


def _standard_error(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else None


def _preferences(values: Sequence[float | None]) -> np.ndarray:
    """(N,) float64; NaN where there is no judgement, 1.5 where an old file says 0."""
    array = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    array[array == 0] = DRAW
    wrong = ~np.isnan(array) & ((array < 1) | (array > 2))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise DataError(
            f"{int(wrong.sum())} of {array.size} preferences are not in [1, 2]",
            where=f"row {first + 1}",
            found=str(values[first]),
            want="1 (the reference is better) to 2 (the policy is better), 1.5 or 0 for a draw",
        )
    return array
