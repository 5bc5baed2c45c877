"""Tables from the seeds' files: means and standard errors over seeds, paired differences with bootstrap intervals."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.real_preferences.arms import CONTROLS, REFINED
from benchmarks.real_preferences.data import JudgedPair, World
from benchmarks.real_preferences.measures import BOOTSTRAP_DRAWS, Bootstrap, correct
from benchmarks.real_preferences.study import tested
from rlp_engine.errors import DataError

CONTROL = "reseed"
SPANS = {"P": ("P",), "new": ("new",), "both": ("P", "new")}
PARTS_OF = {"judged": ("new",)}  # the pairs on P are in its training data
BASELINES = ("length", "reference", "bag-of-words")
POWER_FACTOR = 2.8  # 80% power at two-sided 5%: 1.96 + 0.84


def design_table(world: World) -> str:
    """Counts of D's pool and of the test pairs, and what fixed rules make of them."""
    rows = [("D (pool)", world.judged), *world.tests.items(), *((f"LLMBar {k}", v) for k, v in world.llmbar.items())]
    lines = ["| pairs | count | instructions | generators | longer chosen | reference chosen |", "|---|" + "---:|" * 5]
    for name, pairs in rows:
        longer, reference = (
            np.mean([p.log_length_ratio > 0 for p in pairs]),
            np.mean([p.reference_chosen for p in pairs]),
        )
        counts = [len(pairs), len({p.instruction for p in pairs}), len({p.generator for p in pairs} - {""})]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {longer:.3f} | {reference:.3f} |")
    outputs = ", ".join(f"{name} {np.mean([len(r.texts) for r in rows]):.1f}" for name, rows in world.sets.items())
    return "\n".join([*lines, "", f"Outputs an instruction: {outputs}. Texts in all: {len(world.texts.items)}."])


def smallest_difference(world: World, development: World, folder: Path) -> str:
    """What the design sees with 80% power, from how far two seeds of one recipe part on development pairs.

    The bootstrap standard error of (reseed - first) in length-balanced accuracy over one seed's development pairs,
    scaled by the square root of the number of pairs to all test pairs of a set, each counted once.
    """
    errors = []
    for path in sorted(folder.glob("seed-*.npz")):
        rotation = int(path.stem.removeprefix("seed-"))
        draws = _difference(development, [path], "reseed", "first", "development", "both", Bootstrap(_groups(world)))[1]
        pairs = sum(len(tested(development, "development", rotation, part)) for part in ("P", "new"))
        errors.append(draws.std() * math.sqrt(pairs))
    unit = float(np.mean(errors))
    lines = ["| test pairs | count | standard error | smallest difference |", "|---|---:|---:|---:|"]
    for name, pairs in world.tests.items():
        error = unit / math.sqrt(len(pairs))
        lines.append(f"| {name} | {len(pairs)} | {100 * error:.2f} points | {100 * POWER_FACTOR * error:.1f} points |")
    return "\n".join(lines)


def report(world: World, folder: Path, draws: int = BOOTSTRAP_DRAWS) -> tuple[str, list[dict]]:
    """(markdown, one JSON object a number).

    Raises:
        DataError: if no seed has been run.
    """
    paths = sorted(folder.glob("seed-*.json"))
    if not paths:
        raise DataError("no seed has been run", where=str(folder), mend="python -m benchmarks.real_preferences run")
    records = [record for path in paths for record in json.loads(path.read_text(encoding="utf-8"))["records"]]
    margins = [path.with_suffix(".npz") for path in paths]
    differences = _differences(world, records, margins, Bootstrap(_groups(world), draws))
    tables = [f"Seeds: {len(paths)}. Mean ± standard error over seeds, in percent where not said otherwise.\n"]
    for name in world.sets:
        tables += [f"**Accuracy on judged pairs of the {name} generators**\n", _accuracy_table(records, name)]
        tables += [f"**Difference from {CONTROL}, length-balanced, in points: {name}**\n"]
        tables += [_difference_table(differences, name)]
        tables += [f"**The unlabelled outputs of P: {name}**\n", _outputs_table(records, name)]
    tables += ["**LLMBar**\n", _llmbar_table(records), "**What was added, and its cost**\n", _training_table(records)]
    return "\n\n".join(tables).replace("\n\n\n", "\n\n") + "\n", [*records, *differences]


def _groups(world: World) -> int:
    return len(world.group_of)  # groups are numbered by their lowest instruction


def _differences(world: World, records: Sequence[dict], margins: Sequence[Path], bootstrap: Bootstrap) -> list[dict]:
    found = []
    for name in world.sets:
        arms = _arms(records, name, "accuracy")
        for arm in (a for a in arms if a not in (CONTROL, *BASELINES)):
            for span in PARTS_OF.get(arm, SPANS):
                points, drawn = _difference(world, margins, arm, CONTROL, name, span, bootstrap)
                low, high = np.percentile(drawn, [2.5, 97.5])
                about = {"kind": "difference", "arm": arm, "set": name, "part": span, "seeds": len(points)}
                mean, error = _mean_error(points)
                numbers = {"mean": mean, "seed_error": error, "low": float(low), "high": float(high)}
                found.append({**about, **numbers, "positive": sum(point > 0 for point in points)})
    return found


def _difference(
    world: World, margins: Sequence[Path], arm: str, control: str, name: str, span: str, bootstrap: Bootstrap
) -> tuple[list[float], np.ndarray]:
    """(arm - control in length-balanced accuracy by seed, resampled mean over seeds)."""
    points, drawn = [], []
    for path in margins:
        rotation = int(path.stem.removeprefix("seed-"))
        pairs: list[JudgedPair] = []
        gains = []
        with np.load(path) as stored:
            if any(f"{arm}/{name}/{part}" not in stored for part in SPANS[span]):
                continue  # an arm that not every seed has
            for part in SPANS[span]:
                own, other = (correct(stored[f"{which}/{name}/{part}"]) for which in (arm, control))
                pairs += tested(world, name, rotation, part)
                gains.append(own - other)
        log_ratio_N = np.array([pair.log_length_ratio for pair in pairs])
        groups_N = np.array([world.group_of[pair.instruction] for pair in pairs])
        point, resampled = bootstrap.length_balanced(np.concatenate(gains), log_ratio_N, groups_N)
        points.append(point)
        drawn.append(resampled)
    return points, np.mean(drawn, axis=0)


def _accuracy_table(records: Sequence[dict], name: str) -> str:
    """Length-balanced accuracy by part, then the rest over P and new together, weighted by their pairs."""
    columns = ("accuracy", "chosen_longer", "chosen_shorter", "length_matched", "reference_won", "reference_lost")
    head = ["arm", "balanced, P", "balanced, new", *(c.replace("_", " ") for c in columns), "log-odds of margin"]
    lines = [_row(head), "|---|" + "---:|" * (len(head) - 1)]
    for arm in _arms(records, name, "accuracy"):
        parts = PARTS_OF.get(arm, ("P", "new"))
        rows = [r for r in records if r["kind"] == "accuracy" and (r["arm"], r["set"]) == (arm, name)]
        rows = [r for r in rows if r["part"] in parts]
        cells = [_cell(r["length_balanced"] for r in rows if r["part"] == part) for part in ("P", "new")]
        cells += [_cell(_pooled(rows, column)) for column in columns]
        cells.append(_cell(_pooled(rows, "margin_odds"), scale=1, digits=2))
        lines.append(_row([arm, *cells]))
    return "\n".join(lines)


def _pooled(rows: Sequence[dict], column: str) -> list[float]:
    """By seed: mean over P and new, weighted by their pairs."""
    by_seed: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for row in rows:
        by_seed[row["seed"]].append((row[column], row["pairs"]))
    return [sum(v * n for v, n in own) / sum(n for _, n in own) for own in by_seed.values()]


def _difference_table(differences: Sequence[dict], name: str) -> str:
    lines = ["| arm | part | difference | 95% over instructions | seeds above 0 |", "|---|---|---:|---:|---:|"]
    for row in (r for r in differences if r["set"] == name):
        interval = f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        difference = f"{100 * row['mean']:+.1f} ± {100 * row['seed_error']:.1f}"
        lines.append(_row([row["arm"], row["part"], difference, interval, f"{row['positive']} of {row['seeds']}"]))
    return "\n".join(lines)


def _outputs_table(records: Sequence[dict], name: str) -> str:
    columns = ("reward_length_correlation", "v_within_share", "reward_within_share", "reward_within_std")
    lines = [_row(["arm", *(c.replace("_", " ") for c in columns)]), "|---|" + "---:|" * len(columns)]
    for arm in _arms(records, name, "outputs"):
        rows = [r for r in records if r["kind"] == "outputs" and r["arm"] == arm and r["set"] == name]
        lines.append(_row([arm, *(_cell((r[c] for r in rows), scale=1, digits=2) for c in columns)]))
    return "\n".join(lines)


def _llmbar_table(records: Sequence[dict]) -> str:
    rows = [r for r in records if r["kind"] == "llmbar"]
    lines = ["| arm | P | natural | adversarial |", "|---|---|---:|---:|"]
    for arm, name in dict.fromkeys((r["arm"], r["set"]) for r in rows):
        own = [r for r in rows if (r["arm"], r["set"]) == (arm, name)]
        cells = [_cell(r["accuracy"] for r in own if r["part"] == part) for part in ("natural", "adversarial")]
        lines.append(_row([arm, name or "-", *cells]))
    return "\n".join(lines)


def _training_table(records: Sequence[dict]) -> str:
    columns = ("pairs", "acceptance_rate", "reversed_reward_rate", "characters_chosen", "characters_rejected")
    columns += ("bradley_terry", "jsd", "skl", "mu_within_share", "cpu_seconds", "wall_seconds", "peak_memory_gb")
    rows = [r for r in records if r["kind"] == "training"]
    lines = [_row(["arm", "P", *(c.replace("_", " ") for c in columns)]), "|---|---|" + "---:|" * len(columns)]
    for arm, name in dict.fromkeys((r["arm"], r["set"]) for r in rows):
        own = [r for r in rows if (r["arm"], r["set"]) == (arm, name)]
        means = [np.mean([r[c] for r in own]) if all(r.get(c) is not None for r in own) else None for c in columns]
        lines.append(_row([arm, name or "-", *("-" if mean is None else f"{mean:.3g}" for mean in means)]))
    return "\n".join(lines)


def _arms(records: Sequence[dict], name: str, kind: str) -> list[str]:
    """In one order, whatever was run first: baselines, controls, refined."""
    found = dict.fromkeys(r["arm"] for r in records if r["kind"] == kind and r["set"] == name)
    known = (*BASELINES, *CONTROLS, *REFINED)
    return sorted(found, key=lambda arm: (known.index(arm.partition("@")[0]), arm))


def _mean_error(values: Sequence[float]) -> tuple[float, float]:
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else float("nan")
    return float(np.mean(values)), error


def _cell(values: Iterable[float], scale: float = 100, digits: int = 1) -> str:
    scaled = [scale * value for value in values]
    if not scaled:
        return "-"
    mean, error = _mean_error(scaled)
    return f"{mean:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
