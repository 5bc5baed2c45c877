"""Everything that a study says, from the results of its runs: study.json as an object, and its tables.

Each group of runs of one variant (the preset, or one value of a swept key) is summed up alone; a variant is also
compared with the preset, policy by policy, where both were judged on the same instructions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rlp_engine.study.aggregate import (
    Difference,
    Mean,
    difference,
    is_curve_point,
    mean_of,
    means,
    pairs_of,
    preference_difference,
)
from rlp_engine.study.matched_kl import Matched, families_over_seeds, matched
from rlp_engine.study.read import RunResults, score_of

GIB = 1024**3


@dataclass(frozen=True)
class Compared:
    """a - b at the KL that each ended with: win-rate in points, and the judge's mean score."""

    a: str
    b: str
    win_rate: Difference
    score: Difference


@dataclass(frozen=True)
class StageCost:
    """Over the runs that made the stage themselves."""

    stage: str
    seconds: Mean
    peak_gib: Mean
    adopted: int  # runs that took it from another one


@dataclass(frozen=True)
class Group:
    """The runs of one variant."""

    variant: str  # "" = the preset
    seeds: tuple[int, ...]
    numbers: Mapping[str, Mapping[str, Mapping[str, Mean]]]  # table -> row -> column
    compared: Sequence[Compared]
    matched: Matched
    curve: Mapping[str, Sequence[Mapping[str, Mean]]]  # family -> its policies, for the figure
    against_preset: Sequence[Compared] = ()  # a = a policy here, b = the same policy of the preset


@dataclass(frozen=True)
class Summary:
    groups: Sequence[Group]
    costs: Sequence[StageCost]
    versions: Mapping[str, Sequence[str]]
    judges: Sequence[str]
    references: Sequence[str]
    instructions: Mapping[int, int]  # seed -> how many were judged
    finished: str  # when the last run was
    notes: Sequence[str] = field(default_factory=tuple)


def summarise(runs: Sequence[RunResults]) -> Summary:
    """What these runs say together. Order of variants: that of first appearance."""
    notes: list[str] = []
    variants = list(dict.fromkeys(["", *(run.variant for run in runs)]))
    by_variant = {variant: [run for run in runs if run.variant == variant] for variant in variants}
    preset = {run.seed: run for run in by_variant[""]}
    groups = [_group(variant, found, preset, notes) for variant, found in by_variant.items() if found]
    return Summary(
        groups=groups,
        costs=stage_costs(runs),
        versions=_all_values([run.versions for run in runs]),
        judges=sorted({run.judge for run in runs}),
        references=sorted({run.reference for run in runs}),
        instructions={run.seed: len(run.instructions) for run in runs},
        finished=max((run.finished for run in runs), default=""),
        notes=notes,
    )


def _group(variant: str, runs: Sequence[RunResults], preset: Mapping[int, RunResults], notes: list[str]) -> Group:
    tables = list(dict.fromkeys(table for run in runs for table in run.numbers))
    names = list(dict.fromkeys(name for run in runs for name in run.policies))
    return Group(
        variant=variant,
        seeds=tuple(run.seed for run in runs),
        numbers={table: means([run.numbers.get(table, {}) for run in runs]) for table in tables},
        compared=[c for a, b in pairs_of(names) if (c := compare([(r, a, r, b) for r in runs], variant)) is not None],
        matched=matched(runs, key=(variant,)),
        curve=families_over_seeds(runs),
        against_preset=_against_preset(variant, runs, preset, names, notes) if variant else (),
    )


def compare(sides: Sequence[tuple[RunResults, str, RunResults, str]], *key: str) -> Compared | None:
    """Difference of two policies over the seeds that have both: (run, policy a, run, policy b) for each seed."""
    sides = [(x, a, y, b) for x, a, y, b in sides if a in x.preferences and b in y.preferences]
    if not sides:
        return None
    a, b = sides[0][1], sides[0][3]
    seeds = [x.seed for x, *_ in sides]
    return Compared(
        a,
        b,
        win_rate=preference_difference(
            [x.preferences[a] - y.preferences[b] for x, _, y, _ in sides], key=(*key, a, b, *seeds)
        ),
        score=difference([score_of(x.policies[a]) - score_of(y.policies[b]) for x, _, y, _ in sides]),
    )


def _against_preset(
    variant: str,
    runs: Sequence[RunResults],
    preset: Mapping[int, RunResults],
    names: Sequence[str],
    notes: list[str],
) -> list[Compared]:
    """The same policy with and without the swept value; policies that it does not touch are left out."""
    twins = [(run, preset[run.seed]) for run in runs if run.seed in preset]
    same = [(run, twin) for run, twin in twins if run.instructions == twin.instructions]
    if len(same) < len(twins):
        notes.append(f"{variant}: judged on other instructions than the preset, so no difference to it is given")
    found = []
    for name in names:
        sides = [(run, name, twin, name) for run, twin in same if name in twin.preferences and name in run.preferences]
        if sides and not is_curve_point(name) and not all(map(_is_untouched, sides)):
            found.append(compare(sides, variant, "against the preset"))
    return [one for one in found if one is not None]


def _is_untouched(side: tuple[RunResults, str, RunResults, str]) -> bool:
    run, name, twin, _ = side
    is_same = np.array_equal(run.preferences[name], twin.preferences[name], equal_nan=True)
    return is_same and run.policies[name] == twin.policies[name]


def stage_costs(runs: Sequence[RunResults]) -> list[StageCost]:
    """Wall seconds and peak memory of each stage, over the runs that made it."""
    found = []
    for stage in dict.fromkeys(stage for run in runs for stage in run.costs):
        costs = [run.costs[stage] for run in runs if stage in run.costs]
        own = [cost for cost in costs if not cost.is_adopted]
        if own:
            seconds = mean_of([cost.seconds for cost in own])
            peak = mean_of([cost.peak_rss_bytes / GIB for cost in own])
            found.append(StageCost(stage, seconds, peak, len(costs) - len(own)))
    return found


def _all_values(versions: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Package -> the versions that the runs were made with."""
    packages = list(dict.fromkeys(package for found in versions for package in found))
    return {package: sorted({found[package] for found in versions if package in found}) for package in packages}


def as_object(summary: Summary) -> dict[str, Any]:
    """study.json's `results`: everything above, by name."""
    values = asdict(summary)
    for group in values["groups"]:
        group["matched_kl"] = group.pop("matched")
        del group["curve"]  # the policies' rows hold the same numbers
    return values
