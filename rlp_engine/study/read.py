"""What the runs of a study came to: results, preferences per instruction, costs of stages. Only looks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlp_engine.errors import CorruptArtifactError
from rlp_engine.run.attempt import complete
from rlp_engine.run.events import parse_json
from rlp_engine.run.layout import RunLayout

SKIPPED = frozenset({"paired"})  # of results.json: made of one run's instructions, and made again here over seeds


@dataclass(frozen=True)
class Cost:
    """What a stage took, by its stage.json. An adopted stage cost nothing here."""

    seconds: float
    peak_rss_bytes: int
    is_adopted: bool


@dataclass(frozen=True)
class RunResults:
    """One finished run. Numbers are by name, so that what `evaluate` will measure later is read too."""

    seed: int
    variant: str  # "" = the preset
    numbers: Mapping[str, Mapping[str, Mapping[str, float]]]  # table -> row -> column -> value
    preferences: Mapping[str, np.ndarray]  # policy -> (N,) float64 in [1, 2]
    instructions: tuple[tuple[str, str], ...]  # (instruction, input) of each of the N
    costs: Mapping[str, Cost] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    finished: str = ""
    judge: str = ""
    reference: str = ""

    @property
    def run(self) -> tuple[int, str]:
        """Which run of its study this is."""
        return self.seed, self.variant

    @property
    def policies(self) -> Mapping[str, Mapping[str, float]]:
        return self.numbers.get("policies", {})


def read_run_results(run_dir: Path, seed: int, variant: str) -> RunResults | None:
    """The results of a run whose `evaluate` is done; None before that.

    Raises:
        CorruptArtifactError: what `evaluate` wrote cannot be read.
    """
    layout = RunLayout(run_dir)
    found = complete(layout, "evaluate")
    if found is None:
        return None
    try:
        results = parse_json((found.folder / "results.json").read_bytes())
        preferences, instructions = _preferences(found.folder / "annotations.jsonl")
        numbers = {key: rows for key, value in results.items() if key not in SKIPPED and (rows := tables_of(value))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(
            "the results of a run cannot be read",
            where=str(found.folder),
            found=f"{type(error).__name__}: {error}",
            mend=f"make them again: rlp run {layout.shown} --force evaluate",
        ) from error
    return RunResults(
        seed=seed,
        variant=variant,
        numbers=numbers,
        preferences=preferences,
        instructions=instructions,
        costs=_costs(layout),
        versions=found.manifest.versions,
        finished=found.manifest.finished,
        judge=str(results.get("judge", "")),
        reference=str(results.get("reference", "")),
    )


def score_of(policy: Mapping[str, float]) -> float:
    """The judge's mean score; NaN where the judge only compares, and `evaluate` wrote null."""
    return policy.get("mean_score", math.nan)


def tables_of(value: Any) -> dict[str, dict[str, float]]:
    """Rows of numbers by name, from a list of rows that have a `name` or an object of rows; {} for anything else."""
    if isinstance(value, list):
        rows = {str(row["name"]): row for row in value if isinstance(row, dict) and "name" in row}
    elif isinstance(value, dict):
        rows = {str(name): row for name, row in value.items() if isinstance(row, dict)}
    else:
        return {}
    return {name: found for name, row in rows.items() if (found := flat(row))}


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of nested objects under its dotted name; what is not a finite number is left out."""
    found: dict[str, float] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
            found[name] = float(value)
    return found


def _preferences(path: Path) -> tuple[dict[str, np.ndarray], tuple[tuple[str, str], ...]]:
    """annotations.jsonl: every policy's preferences, in the order of the instructions, which is the same for all."""
    values: dict[str, list[float]] = {}
    instructions: dict[str, list[tuple[str, str]]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = parse_json(line)
            preference = row["preference"]
            values.setdefault(row["generator_2"], []).append(np.nan if preference is None else preference)
            instructions.setdefault(row["generator_2"], []).append((row["instruction"], row.get("input") or ""))
    orders = {tuple(order) for order in instructions.values()}
    if len(orders) != 1:
        raise ValueError(f"the policies were judged on {len(orders)} different lists of instructions")
    return {name: np.array(found, dtype=np.float64) for name, found in values.items()}, orders.pop()


def _costs(layout: RunLayout) -> dict[str, Cost]:
    """Of every finished stage, in the order in which they were begun."""
    costs: list[tuple[str, str, Cost]] = []
    for file in layout.run_dir.rglob("stage.json"):
        name = file.parent.relative_to(layout.run_dir).as_posix()
        if name.startswith("superseded/") or ".partial" in name or "/." in f"/{name}":
            continue
        found = complete(layout, name)
        if found is not None:
            manifest = found.manifest
            cost = Cost(manifest.seconds, manifest.peak_rss_bytes, bool(manifest.adopted_from))
            costs.append((manifest.started, name, cost))
    return {name: cost for _, name, cost in sorted(costs, key=lambda row: row[:2])}
