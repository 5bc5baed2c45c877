"""The tables of uml_study.py: means, standard errors over policy seeds, paired differences from both controls."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from uml_arms import ARMS, CONTROLS, LADDER

INSIDE = (
    *("jsd", "skl", "nwj", "mean_sigma", "v_within", "z_within", "reward_within"),
    *("train_loss", "train_accuracy", "held_out_loss", "held_out_accuracy", "train_seconds"),
)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


Results = dict[tuple[str, str, int], dict[str, Any]]  # (arm, base, reward seed) -> its line


def by_policy_seed(values: Iterable[tuple[str, float]]) -> list[float]:
    """(base, value) of single reward models -> a mean for each base, in the order of their names."""
    found: dict[str, list[float]] = defaultdict(list)
    for base, value in values:
        found[base].append(value)
    return [statistics.fmean(found[base]) for base in sorted(found)]


def difference_in_steps(results: Results, row: dict[str, Any], name: str) -> float:
    """What the arm has more than D alone from the same start, for as many steps, at the same reward seed."""
    start, epochs = ARMS[row["arm"]].start, ARMS[row["arm"]].epochs
    control = "from train-rm, D 3" if start == "train-rm" else f"D {epochs}"
    return row[name] - results[control, row["base"], row["seed"]][name]


def difference_in_loss(results: Results, row: dict[str, Any], name: str) -> float:
    """What the arm has more than D alone, from pi_SFT, where that has the same training loss.

    Linear between the lengths of the ladder, its ends beyond. The ladder of the same reward seed where it is whole,
    the mean one of the policy seed elsewhere.
    """
    ladder = {e: [r for (arm, base, _), r in results.items() if (arm, base) == (f"D {e}", row["base"])] for e in LADDER}
    own = {e: [r for r in rows if r["seed"] == row["seed"]] for e, rows in ladder.items()}
    ladder = own if all(own.values()) else ladder
    mean = statistics.fmean
    points = sorted((mean(r["train_loss"] for r in rows), mean(r[name] for r in rows)) for rows in ladder.values())
    loss = min(max(row["train_loss"], points[0][0]), points[-1][0])
    (low, low_value), (high, high_value) = next(two for two in itertools.pairwise(points) if loss <= two[1][0])
    return row[name] - (low_value + (high_value - low_value) * (loss - low) / (high - low))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def shown(values: Sequence[float], signed: bool = False) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:+.3f} ± {error:.3f}" if signed else f"{mean:.3f} ± {error:.3f}"


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracies, paired differences from both controls, and what else was measured, as markdown."""
    results = {(row["arm"], row["base"], row["seed"]): row for row in rows}
    measures = ("ppo_accuracy", "ppo_correct", "sft_accuracy", "sft_correct")
    accuracies, differences, insides = [], [], []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        means = [by_policy_seed((row["base"], row[m]) for row in own) for m in measures]
        accuracies.append([arm, str(len(own)), *map(shown, means)])
        cells = []
        for m in measures:
            for difference in (difference_in_steps, difference_in_loss):
                gains = by_policy_seed((row["base"], difference(results, row, m)) for row in own)
                cells.append(shown(gains, signed=True))
        if ARMS[arm] not in CONTROLS:
            differences.append([arm, *cells])
        found = [by_policy_seed((row["base"], row[name]) for row in own if name in row) for name in INSIDE]
        insides.append([arm, *(f"{statistics.fmean(values):.3f}" if values else "" for values in found)])
    heads = [f"{m}, {control}" for m in measures for control in ("steps", "loss")]
    return "\n".join(
        [
            *markdown(["arm", "models", *measures], accuracies),
            *markdown(["arm minus D alone matched in", *heads], differences),
            *markdown(["arm", *INSIDE], insides),
        ]
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table, and an empty line after it."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)] + [""]
