"""What a run came to: the tables of evaluate/results.json and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlp_cli.render import Output

PARTS_SHOWN = 2  # of what the judge's score is made of; --verbose, --json and the page have all


def read_results(run_dir: Path) -> dict[str, Any] | None:
    """evaluate/results.json, or None before `evaluate` is done."""
    from rlp_engine.errors import CorruptArtifactError
    from rlp_engine.run.layout import RunLayout

    path = RunLayout(run_dir).stage("evaluate") / "results.json"
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        mend = f"rlp run {run_dir} --force evaluate"
        raise CorruptArtifactError(
            "results.json cannot be read", where=str(path), found=str(error), mend=mend
        ) from None


def show_results(output: Output, results: dict[str, Any]) -> None:
    """Win-rates of the policies, then accuracies of the reward models."""
    policies = results["policies"]
    parts = _parts_that_tell_more(policies)
    parts = parts if output.verbose else parts[:PARTS_SHOWN]
    headers = ["policy", "win-rate %", "±", "score", "kl", "tokens", *parts]
    rows = [
        [
            row["name"],
            _fixed(row["win_rate"], 1),
            _fixed(row["standard_error"], 1),
            _fixed(row["mean_score"], 3),
            _fixed(row["kl"], 2),
            _fixed(row["mean_tokens"], 1),
            *(_fixed((row.get("parts") or {}).get(part), 3) for part in parts),
        ]
        for row in policies
    ]
    output.table(headers, rows)
    models = results.get("reward_models") or []
    sets = list(dict.fromkeys(name for row in models for name in row["accuracy"]))
    if sets:
        output.show()
        output.table(
            ["accuracy % on samples of", *sets],
            [[row["name"], *(_accuracy(row["accuracy"].get(name)) for name in sets)] for row in models],
        )


def _parts_that_tell_more(policies: list[dict[str, Any]]) -> list[str]:
    """Names of the judge's parts, without the first one if it only repeats the score."""
    names = list(dict.fromkeys(part for row in policies for part in row.get("parts") or {}))
    is_score = all((row.get("parts") or {}).get(name) == row["mean_score"] for name in names[:1] for row in policies)
    return names[1:] if is_score else names


def write_report(run_dir: Path) -> Path:
    """report.html of what there is so far."""
    from rlp_engine.report.page import write_report as write
    from rlp_engine.run.layout import RunLayout

    path = RunLayout(run_dir).report
    write(run_dir, read_results(run_dir), path)
    return path


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: never "-0.00"


def _accuracy(entry: dict[str, Any] | None) -> str:
    return "-" if not entry or entry["accuracy"] is None else f"{100 * entry['accuracy']:.1f}"
