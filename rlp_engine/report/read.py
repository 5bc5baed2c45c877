"""What a run directory holds, read for showing: finished and unfinished stages, metrics, decisions.

Nothing here changes the directory or asks that it be whole: a file that is missing is left out, a line
that cannot be read is counted and named on the page. Files of any size are read a line at a time.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlp_engine.config.outside import read_config_text
from rlp_engine.config.toml_text import parse_toml
from rlp_engine.errors import ConfigError
from rlp_engine.run.events import parse_json
from rlp_engine.run.layout import RunLayout
from rlp_engine.run.warned import Warned, warned

BASE_ORDER = ("prepare", "sft", "collect", "train-rm", "ppo")
ROUND_ORDER = ("sample", "embed", "synthesize", "refine-rm", "ppo")
SKIPPED_FOLDERS = frozenset({"superseded", "logs", "checkpoints", "samples", "model", "candidates"})
MOST_POINTS = 400  # of a curve; more cannot be told apart at the size they are drawn
PARTIAL = ".partial"


@dataclass(frozen=True)
class StageFiles:
    """One stage's directory. `status` is done, or what attempt.json says of an unfinished one."""

    name: str
    path: Path
    status: str
    record: dict[str, Any]
    metrics: list[dict[str, float]]

    @property
    def kind(self) -> str:
        return self.name.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class RunFiles:
    name: str
    settings: dict[str, Any]  # run.toml as far as it can be read
    settings_text: str
    stages: list[StageFiles]  # in the order of the method
    problems: list[str] = field(default_factory=list)  # what could not be read, for the page
    warned: Mapping[str, list[Warned]] = field(default_factory=dict)  # by the name of the stage

    def of_kind(self, kind: str) -> list[StageFiles]:
        return [stage for stage in self.stages if stage.kind == kind]


@dataclass(frozen=True)
class Decisions:
    """decisions.jsonl of one synthesize stage, summed up."""

    reasons: Counter[str]
    by_confidence: dict[float, Counter[str]]  # confidence -> reason -> prompts
    examples: list[dict[str, Any]]


def read_run(run_dir: Path) -> RunFiles:
    """Everything the report shows but for samples, decisions and pairs, which are streamed when shown."""
    problems: list[str] = []
    stages = [_read_stage(run_dir, path, problems) for path in _stage_folders(run_dir)]
    stages.sort(key=lambda stage: _order(stage.name))
    settings, text = _read_settings(run_dir / "run.toml", problems)
    return RunFiles(run_dir.resolve().name, settings, text, stages, problems, warned(RunLayout(run_dir).events))


def read_json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """A JSON object, or None when the file is missing or is something else (then `problems` says so)."""
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} in {path.parent.name}/ could not be read: {error}")
        return None
    if not isinstance(value, dict):
        problems.append(f"{path.name} in {path.parent.name}/ is not a JSON object")
        return None
    return value


def read_lines(path: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Objects of a JSONL file. A last line without its newline is still being written and is passed over."""
    bad = 0
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    continue
                try:
                    row = parse_json(line)
                except ValueError:
                    row = None
                if isinstance(row, dict):
                    yield row
                else:
                    bad += 1
    except FileNotFoundError:
        return
    if bad:
        problems.append(f"{bad} lines of {path.name} in {path.parent.name}/ could not be read")


def read_decisions(path: Path, problems: list[str], *, examples_per_confidence: int = 1) -> Decisions:
    """Counts of every row, and a few rows of each confidence and reason to read (the first in the file)."""
    reasons: Counter[str] = Counter()
    by_confidence: dict[float, Counter[str]] = {}
    kept: Counter[tuple[float, str]] = Counter()
    examples = []
    for row in read_lines(path, problems):
        reason = str(row.get("reason", "unknown"))
        reasons[reason] += 1
        confidence = row.get("confidence")
        if not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
            continue
        confidence = round(float(confidence), 6)
        by_confidence.setdefault(confidence, Counter())[reason] += 1
        if kept[confidence, reason] < examples_per_confidence:
            kept[confidence, reason] += 1
            examples.append(row)
    examples.sort(key=lambda row: -row["confidence"])
    return Decisions(reasons, by_confidence, examples)


def sample_files(stage: StageFiles) -> list[tuple[int, Path]]:
    """(step, file) of the answers that a training stage saved, by step."""
    found = []
    for path in (stage.path / "samples").glob("step_*.jsonl"):
        if match := re.fullmatch(r"step_(\d+)", path.stem):
            found.append((int(match[1]), path))
    return sorted(found)


def _stage_folders(run_dir: Path) -> list[Path]:
    found = []
    for folder, children, files in os.walk(run_dir):
        path = Path(folder)
        if path != run_dir and ("stage.json" in files or path.name.endswith(PARTIAL)):
            found.append(path)
            children.clear()
            continue
        children[:] = [name for name in children if name not in SKIPPED_FOLDERS and not name.startswith(".")]
    return found


def _read_stage(run_dir: Path, path: Path, problems: list[str]) -> StageFiles:
    name = path.relative_to(run_dir).as_posix()
    metrics = _thinned(_numbers(read_lines(path / "metrics.jsonl", problems)))
    if not name.endswith(PARTIAL):
        record = read_json(path / "stage.json", problems) or {}
        return StageFiles(name, path, str(record.get("status", "done")), record, metrics)
    record = read_json(path / "attempt.json", problems) or {}
    return StageFiles(name.removesuffix(PARTIAL), path, str(record.get("status", "unfinished")), record, metrics)


def _numbers(rows: Iterator[dict[str, Any]]) -> list[dict[str, float]]:
    """Rows with a step, their numbers only."""
    kept = []
    for row in rows:
        values = {k: float(v) for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        if "step" in values:
            kept.append(values)
    return kept


def _thinned(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """At most about MOST_POINTS points of each metric, evenly spaced, the last one among them.

    Each metric by itself: one that is measured every tenth step is not where every third row is kept.
    """
    steps: dict[str, list[int]] = {}  # metric -> the rows that have it
    for index, row in enumerate(rows):
        for key in row:
            steps.setdefault(key, []).append(index)
    kept: dict[int, dict[str, float]] = {}
    for key, indices in steps.items():
        stride = -(-len(indices) // MOST_POINTS)
        for index in indices[::-1][::stride]:
            kept.setdefault(index, {"step": rows[index]["step"]})[key] = rows[index][key]
    return [kept[index] for index in sorted(kept)]


def _read_settings(path: Path, problems: list[str]) -> tuple[dict[str, Any], str]:
    text = ""
    try:
        text = read_config_text(path)
        return parse_toml(text, path.name), text
    except FileNotFoundError:
        return {}, text
    except (OSError, ConfigError) as error:
        problems.append(f"run.toml could not be read: {error}")
        return {}, text


def _order(name: str) -> tuple[float, str, int, str]:
    """The order of Algorithm 1: base stages, then each round's shared stages and its methods, then the evaluation."""
    parts = name.split("/")
    match = re.fullmatch(r"round-(\d+)", parts[0])
    round_number = int(match[1]) if match else math.inf if parts[0] == "evaluate" else 0
    method = parts[1] if match and len(parts) > 2 else ""
    kinds = ROUND_ORDER if match else BASE_ORDER
    return (round_number, method, kinds.index(parts[-1]) if parts[-1] in kinds else len(kinds), name)
