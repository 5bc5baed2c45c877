"""What a study's refined reward models gain on PPO's own answers over the first one and the control, paired by seed.

    python benchmarks/reward_gains.py results/half-style
    python benchmarks/reward_gains.py results/conditions --variant sandbox.preferences_about=other

Reads the runs' evaluate/results.json and prints a markdown table: points of accuracy, mean and standard error over
seeds, and in how many seeds the gain is above 0. Accuracy is over pairs of PPO's answers to one test instruction that
gold tells apart; "differing": those of which one is right and one is not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rlp_engine.study.aggregate import Difference, difference

BASELINES = {"first": "train-rm", "control": "round-1/reseed"}
KINDS = ("all", "differing")


def results_of(study: Path, variant: str) -> list[dict[str, Any]]:
    """results.json of every finished run of this variant ("" = the preset's), by seed."""
    suffix = f"--{variant}" if variant else ""
    named = {path: path.parent.parent.name for path in study.glob("seed-*/evaluate/results.json")}
    chosen = sorted(path for path, name in named.items() if name == name.partition("--")[0] + suffix)
    return [json.loads(path.read_bytes()) for path in chosen]


def accuracy(results: dict[str, Any], model: str, kind: str) -> float:
    """Percent, on PPO's answers."""
    (row,) = [row["accuracy"]["ppo"] for row in results["reward_models"] if row["name"] == model]
    return 100 * (row if kind == "all" else row["differing"])["accuracy"]


def shown(gain: Difference) -> str:
    error = "" if gain.standard_error is None else f" ± {gain.standard_error:.1f}"
    return f"{gain.mean:+.1f}{error} ({gain.positive} of {gain.seeds})"


def table(runs: list[dict[str, Any]]) -> str:
    names = [row["name"] for row in runs[0]["reward_models"]]
    baselines = {label: name for label, name in BASELINES.items() if name in names}
    headers = ["reward model", *(f"less the {label}, {kind}" for label in baselines for kind in KINDS)]
    lines = [headers, [":--", *["--:"] * (len(headers) - 1)]]
    for name in names:
        if name == BASELINES["first"]:
            continue
        cells = [
            "-"
            if name == base
            else shown(difference([accuracy(r, name, kind) - accuracy(r, base, kind) for r in runs]))
            for base in baselines.values()
            for kind in KINDS
        ]
        lines.append([name, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder that `rlp study` made")
    parser.add_argument("--variant", default="", help="KEY=VALUE of a sweep; left out: the preset's runs")
    arguments = parser.parse_args()
    runs = results_of(arguments.study, arguments.variant)
    if not runs:
        sys.exit(f"error: no finished run of '{arguments.variant or 'the preset'}' in {arguments.study}")
    sys.stdout.write(table(runs))


if __name__ == "__main__":
    main()
