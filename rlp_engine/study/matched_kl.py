"""Policies at the same KL: win-rate and gold against KL for every reward model, read off at common values.

Reward models differ in scale and slope, so one KL coefficient ends at different KL, and more KL alone buys gold
up to a point (Gao et al. 2023, arXiv:2210.10760). A family is the policies of one reward model at several
coefficients, and the SFT policy at KL 0. Between two neighbouring points everything is linear in sqrt(KL), the
distance in which Gao et al. draw these curves. They are concave, so the chord from SFT to a family's first policy
lies below its curve, and a family whose first policy stands far out looks worse there than it is: such readings are
kept apart (`is_on_chord`), and more coefficients mend it. Nothing is extrapolated: a family has no value beyond its
largest KL. The KL itself is taken as known; its own error is not in the intervals.

Shapes: P = points of a family, by KL; N = instructions of a seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rlp_engine.study.aggregate import Difference, Mean, difference, mean_of, pairs_of, preference_difference
from rlp_engine.study.read import RunResults, score_of

KL_VALUES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0)
"""Where curves are read, nats a sequence: those that at least one seed covers, and that are not close to SFT."""
LEAST_SHARE = 0.05  # of the largest KL: below it everything is still the SFT policy
SFT = "sft"


@dataclass(frozen=True)
class Point:
    """One policy."""

    kl: float  # nats a sequence, >= 0
    score: float  # the judge's mean score (gold, in the sandbox); NaN for a judge that only compares
    preferences_N: np.ndarray  # in [1, 2]


@dataclass(frozen=True)
class Reading:
    """A family at one KL. `score` and `preferences_N` are interpolated alike, so the win-rate is their mean."""

    score: float
    preferences_N: np.ndarray
    is_on_chord: bool = False  # read between SFT and the family's smallest KL: the curve there is not known

    @property
    def win_rate(self) -> float:
        return 100 * float(np.nanmean(self.preferences_N - 1))


@dataclass(frozen=True)
class MatchedMean:
    kl: float
    family: str
    win_rate: Mean
    score: Mean
    on_chord: int  # seeds in which it was read on the chord from SFT to its first policy


@dataclass(frozen=True)
class MatchedDifference:
    kl: float
    a: str
    b: str
    win_rate: Difference
    score: Difference
    on_chord: int  # seeds in which a or b was read on the chord


@dataclass(frozen=True)
class Matched:
    means: list[MatchedMean] = field(default_factory=list)
    differences: list[MatchedDifference] = field(default_factory=list)  # seeds where neither is on its chord
    on_chord: list[MatchedDifference] = field(default_factory=list)  # all seeds, where some are


def family_of(policy: str) -> str:
    """ "round-1/spg-kl0.05" -> "round-1/spg"."""
    return policy.partition("-kl")[0]


def families(run: RunResults) -> dict[str, list[Point]]:
    """Family -> its points by KL, the SFT policy first at KL 0. Policies without a KL (best-of-n) have no place here.

    A sampled KL can come out below 0 for a policy that hardly moved; it is 0 then.
    """
    policies, preferences = run.policies, run.preferences
    if SFT not in policies or SFT not in preferences:
        return {}
    start = Point(0.0, score_of(policies[SFT]), preferences[SFT])
    found: dict[str, list[Point]] = {}
    for name, row in policies.items():
        if name != SFT and "kl" in row and name in preferences:
            point = Point(max(0.0, row["kl"]), score_of(row), preferences[name])
            found.setdefault(family_of(name), [start]).append(point)
    return {family: sorted(points, key=lambda point: point.kl) for family, points in found.items()}


def read_off(points: Sequence[Point], kl: float) -> Reading | None:
    """A family at a KL, linear in sqrt(KL) between its two neighbours; None beyond its largest KL.

        w = (sqrt(kl) - sqrt(kl_below)) / (sqrt(kl_above) - sqrt(kl_below)),  y = (1 - w) y_below + w y_above

    Points of the same KL count as their mean.
    """
    points = _merged(points)
    if not points or not points[0].kl <= kl <= points[-1].kl:
        return None
    above = next(i for i, point in enumerate(points) if point.kl >= kl)
    high = points[above]
    if high.kl == kl:
        return Reading(high.score, high.preferences_N)
    low = points[above - 1]
    w = (math.sqrt(kl) - math.sqrt(low.kl)) / (math.sqrt(high.kl) - math.sqrt(low.kl))
    return Reading(
        (1 - w) * low.score + w * high.score, (1 - w) * low.preferences_N + w * high.preferences_N, above == 1
    )


def matched(runs: Sequence[RunResults], *, key: tuple[str | int, ...] = ()) -> Matched:
    """The families with a curve of these runs (one a seed) at common KL.

    A family of one policy has no curve to read: all it could give is the chord from SFT.
    Means at a KL are over the seeds in which every family covers it, so that all are over the same seeds.
    Differences are over the seeds in which both of their families have policies on either side of it; those that
    also count seeds with a reading on a chord are given apart.
    """
    everything = [families(run) for run in runs]
    names = list(dict.fromkeys(name for found in everything for name, points in found.items() if len(points) > 2))
    by_seed = [{name: points for name, points in found.items() if name in names} for found in everything]
    result = Matched()
    if not names:
        return result
    most = max(points[-1].kl for found in by_seed for points in found.values())
    for kl in (value for value in KL_VALUES if value >= LEAST_SHARE * most):
        readings = [{name: at for name, points in found.items() if (at := read_off(points, kl))} for found in by_seed]
        common = [at for at in readings if set(names) <= set(at)]
        if common:
            result.means.extend(_mean(kl, name, [at[name] for at in common]) for name in names)
        for a, b in pairs_of([SFT, *names]):
            both = [(at[a], at[b]) for at in readings if a in at and b in at]
            between = [(x, y) for x, y in both if not (x.is_on_chord or y.is_on_chord)]
            if between:
                result.differences.append(_difference(kl, a, b, between, key))
            if len(between) < len(both):
                result.on_chord.append(_difference(kl, a, b, both, (*key, "chord")))
    return result


def _mean(kl: float, family: str, readings: Sequence[Reading]) -> MatchedMean:
    return MatchedMean(
        kl,
        family,
        win_rate=mean_of([reading.win_rate for reading in readings]),
        score=mean_of([reading.score for reading in readings]),
        on_chord=sum(reading.is_on_chord for reading in readings),
    )


def _difference(
    kl: float, a: str, b: str, both: Sequence[tuple[Reading, Reading]], key: tuple[str | int, ...]
) -> MatchedDifference:
    return MatchedDifference(
        kl,
        a,
        b,
        win_rate=preference_difference(
            [x.preferences_N - y.preferences_N for x, y in both], key=(*key, f"kl {kl:g}", a, b)
        ),
        score=difference([x.score - y.score for x, y in both]),
        on_chord=sum(x.is_on_chord or y.is_on_chord for x, y in both),
    )


def _merged(points: Sequence[Point]) -> list[Point]:
    by_kl: dict[float, list[Point]] = {}
    for point in points:
        by_kl.setdefault(point.kl, []).append(point)
    return [
        Point(kl, float(np.mean([p.score for p in same])), np.mean([p.preferences_N for p in same], axis=0))
        for kl, same in sorted(by_kl.items())
    ]


def families_over_seeds(runs: Sequence[RunResults]) -> Mapping[str, list[dict[str, Mean]]]:
    """For the figure: family -> its policies by mean KL, each with `kl`, `win_rate` and `score` over seeds."""
    values: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for run in runs:
        for name, row in run.policies.items():
            if name != SFT and "kl" in row:
                policies = values.setdefault(family_of(name), {})
                policies.setdefault(name, []).append((max(0.0, row["kl"]), row["win_rate"], score_of(row)))
    found = {}
    for family, policies in values.items():
        points = [
            dict(zip(("kl", "win_rate", "score"), map(mean_of, zip(*rows, strict=True)), strict=True))
            for rows in policies.values()
        ]
        found[family] = sorted(points, key=lambda point: point["kl"].mean)
    return found
