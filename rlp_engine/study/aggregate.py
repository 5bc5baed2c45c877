"""Numbers over seeds: means with standard errors, and paired differences. Pure functions.

Shapes: S = seeds, N = instructions of a seed (it may differ between seeds: each may have its own world).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlp_engine import randomness
from rlp_engine.errors import DataError
from rlp_engine.evaluation.winrate import mean_and_standard_error

RESAMPLES = 4000
CONFIDENCE = 0.95
BLOCK = 2_000_000  # numbers drawn at once: 16 MB


@dataclass(frozen=True)
class Mean:
    """Over seeds. `standard_error` is std / sqrt(seeds) with seeds - 1 in the variance; None for one seed."""

    mean: float
    standard_error: float | None
    seeds: int


@dataclass(frozen=True)
class Difference:
    """a - b, paired by seed."""

    mean: float
    standard_error: float | None  # of the per-seed differences
    seeds: int
    positive: int  # seeds in which a is better than b
    low: float | None = None  # of the bootstrap over seeds and instructions; None: not a mean over instructions
    high: float | None = None


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and standard error of one number a seed. Raises DataError when there is none."""
    mean, error = mean_and_standard_error(values)
    return Mean(mean, None if math.isnan(error) else error, len(values))


def means(rows_by_seed: Iterable[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, Mean]]:
    """Row -> column -> mean over the seeds that have this number. Order: that of first appearance."""
    values: dict[str, dict[str, list[float]]] = {}
    for rows in rows_by_seed:
        for name, row in rows.items():
            columns = values.setdefault(name, {})
            for column, value in row.items():
                columns.setdefault(column, []).append(value)
    return {name: {column: mean_of(v) for column, v in columns.items()} for name, columns in values.items()}


def difference(per_seed: Sequence[float]) -> Difference:
    """Of one number a seed: no instructions to resample, so no interval."""
    mean = mean_of(per_seed)
    return Difference(mean.mean, mean.standard_error, mean.seeds, sum(value > 0 for value in per_seed))


def preference_difference(differences_SN: Sequence[np.ndarray], *, key: tuple[str | int, ...]) -> Difference:
    """Difference of two win-rates in percentage points, over seeds and the instructions of each.

    Args:
        differences_SN: for each seed (N,) preference of a less that of b on the same instruction; NaN where either
            was not judged.
        key: what the resampling is keyed by, so that the interval is always the same.

    Raises:
        DataError: a seed has no instruction that both were judged on.
    """
    kept = [100 * values[~np.isnan(values)] for values in differences_SN]
    if not kept or not all(values.size for values in kept):
        raise DataError("no instruction was judged for both policies")
    plain = difference([float(values.mean()) for values in kept])
    low, high = hierarchical_interval(kept, key=key)
    return Difference(plain.mean, plain.standard_error, plain.seeds, plain.positive, low, high)


def hierarchical_interval(
    values_SN: Sequence[np.ndarray],
    *,
    key: tuple[str | int, ...],
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Percentile interval of the mean over seeds of the mean over instructions (two-stage bootstrap).

    Each resample draws S seeds with replacement, and for every seed drawn N of its instructions with
    replacement. A seed that is drawn twice gets two draws of instructions. With fewer than about ten seeds the
    interval is too narrow (the S drawn seeds vary by (S - 1) / S of what new seeds would): read the standard
    error and the count of positive seeds beside it.
    """
    random = randomness.generator("study-bootstrap", *key)
    seeds = len(values_SN)
    drawn_RS = random.integers(0, seeds, size=(resamples, seeds))
    means_RS = np.empty((resamples, seeds))
    for seed, values_N in enumerate(values_SN):
        is_drawn_RS = drawn_RS == seed
        means_RS[is_drawn_RS] = _resampled_means(values_N, int(is_drawn_RS.sum()), random)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means_RS.mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def _resampled_means(values_N: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(count,) means of N values drawn with replacement."""
    found = np.empty(count)
    rows = max(1, BLOCK // values_N.size)
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        drawn = random.integers(0, values_N.size, size=(stop - start, values_N.size))
        found[start:stop] = values_N[drawn].mean(axis=1)
    return found


def is_curve_point(name: str) -> bool:
    """A policy at another KL coefficient than the run's own: read in the curve, not beside the others."""
    return "-kl" in name


def pairs_of(names: Iterable[str]) -> list[tuple[str, str]]:
    """Which policies are compared: PPO with SFT; every method with PPO, and with the control of its round."""
    names = [name for name in names if not is_curve_point(name)]
    methods = [name for name in names if name.startswith("round-")]
    pairs = [("ppo", "sft")] if {"ppo", "sft"} <= set(names) else []
    if "ppo" in names:
        pairs += [(name, "ppo") for name in methods]
    for name in methods:
        control = f"{name.partition('/')[0]}/reseed"
        if control in methods and name != control:
            pairs.append((name, control))
    return pairs
