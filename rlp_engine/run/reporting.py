"""How the engine tells people what it is doing. The engine never prints; it is handed a Reporter."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TextIO

from rlp_engine.run.disk import Writing
from rlp_engine.safe_text import clean, redact

# What a step's line shows: the first of these groups whose first metric is there. metrics.jsonl has all of them.
HEADLINES = (
    ("reward", "kl", "length", "eos_share", "entropy", "held_out_agreement"),
    ("loss", "accuracy", "multi_view", "grad_norm"),
)
LINE_WIDTH = 100  # characters of a step's line; metrics that do not fit are left out


class Reporter(Protocol):
    """Receives progress and lines for people. The terminal, a log file and a test each have their own."""

    def line(self, text: str) -> None:
        """A plain line."""

    def warn(self, text: str) -> None:
        """Something to look at; the work goes on."""

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float], seconds: float) -> None:
        """A training step is done. `step` counts from 1; `seconds` is what it took."""

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        """So many of so many prompts, pairs, ... are done. May come often; show what you have room for."""

    def stage_started(self, name: str, will: str, because: str) -> None:
        """`will` is run, continue or start again."""

    def stage_finished(self, name: str, seconds: float, summary: Mapping[str, Any]) -> None:
        """The stage is committed; `summary` holds its headline numbers."""


class NullReporter:
    """Says nothing."""

    def line(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float], seconds: float) -> None:
        pass

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        pass

    def stage_started(self, name: str, will: str, because: str) -> None:
        pass

    def stage_finished(self, name: str, seconds: float, summary: Mapping[str, Any]) -> None:
        pass


class TeeReporter:
    """Hands everything to several reporters, in the order given."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def line(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.line(text)

    def warn(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.warn(text)

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float], seconds: float) -> None:
        for reporter in self._reporters:
            reporter.step(stage, step, total, metrics, seconds)

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        for reporter in self._reporters:
            reporter.progress(stage, done, total, unit)

    def stage_started(self, name: str, will: str, because: str) -> None:
        for reporter in self._reporters:
            reporter.stage_started(name, will, because)

    def stage_finished(self, name: str, seconds: float, summary: Mapping[str, Any]) -> None:
        for reporter in self._reporters:
            reporter.stage_finished(name, seconds, summary)


class LogReporter:
    """Writes every line to a file with the time of day; progress at most every `interval_seconds`."""

    def __init__(self, path: Path, *, interval_seconds: float = 30.0) -> None:
        self._file: TextIO = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  line by line, until close()
        self._interval_seconds = interval_seconds
        self._last_progress: dict[str, float] = {}

    def close(self) -> None:
        self._file.close()

    def line(self, text: str) -> None:
        text = clean(redact(text))
        now = f"{datetime.now():%H:%M:%S}"
        lines = "".join(f"{now} {part}\n" for part in text.splitlines() or [""])
        with Writing(Path(self._file.name), len(lines.encode())):
            self._file.write(lines)

    def warn(self, text: str) -> None:
        self.line(f"warning: {text}")

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float], seconds: float) -> None:
        self.line(step_line(stage, step, total, metrics, seconds))

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if done >= total or now - self._last_progress.get(stage, -1e9) >= self._interval_seconds:
            self._last_progress[stage] = now
            self.line(f"{stage}: {done} of {total} {unit}")

    def stage_started(self, name: str, will: str, because: str) -> None:
        self.line(f"{name}: {will} ({because})")

    def stage_finished(self, name: str, seconds: float, summary: Mapping[str, Any]) -> None:
        numbers = "   ".join(
            f"{key} {short(value)}" for key, value in summary.items() if isinstance(value, (int, float))
        )
        self.line(f"{name}: done in {seconds:.1f} s   {numbers}".rstrip())


def step_line(stage: str, step: int, total: int, metrics: Mapping[str, float], seconds: float) -> str:
    """Such as `ppo step 121 of 600   reward 1.84   kl 4.1   eos 97%   3.2 s`."""
    start, end = f"{stage} step {step} of {total}", f"   {seconds:.1f} s"
    return f"{start}{headline(metrics, LINE_WIDTH - len(start + end))}{end}"


def headline(metrics: Mapping[str, float], width: int) -> str:
    """Such as `   reward 1.84   kl 4.1   eos 97%`: the metrics that tell most, to three digits, as far as they fit."""
    group = next((group for group in HEADLINES if group[0] in metrics), tuple(metrics))
    text = ""
    for part in (f"   {_metric(key, metrics[key])}" for key in group if key in metrics):
        if len(text + part) > width:
            break
        text += part
    return text


def _metric(name: str, value: float) -> str:
    if name.endswith("_share"):
        return f"{name.removesuffix('_share')} {value:.0%}"
    return f"{name.replace('_', ' ')} {value if isinstance(value, int) else format(value, '.3g')}"


def short(value: float) -> str:
    """A number as people read it: 4 significant digits, integers whole."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"
