"""What the engine reports, as lines and a progress bar (implements rlp_engine.run.reporting.Reporter)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rlp_cli.render import Output
from rlp_cli.text import duration, number

LINES_PER_STAGE = 20
SECONDS_BETWEEN_LINES = 30.0
MOST_IN_SUMMARY = 5  # numbers in a stage's last line; `rlp status --json` has them all
WIDTH_BESIDE_BAR = 28  # characters of metrics: the bar itself needs the room


class ConsoleReporter:
    """A line when a stage starts and ends and at intervals between; on a terminal a bar as well."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._last_line: dict[str, float] = {}  # stage -> when it last had a line
        self._seen: set[str] = set()  # stages of which a step was reported: the first after a resume gets a line

    def line(self, text: str) -> None:
        self._output.say(text)

    def warn(self, text: str) -> None:
        self._output.warn(text)

    def stage_started(self, name: str, will: str, because: str) -> None:
        self._last_line[name] = time.monotonic()
        self._output.say(f"{name}: {will} ({because})" if because else f"{name}: {will}", "head")

    def stage_finished(self, name: str, seconds: float, summary: Mapping[str, Any]) -> None:
        self._output.stop_progress()
        self._output.say(f"{name}: done in {duration(seconds)}{_numbers(summary, MOST_IN_SUMMARY)}", "good")

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float], seconds: float) -> None:
        from rlp_engine.run.reporting import LINE_WIDTH, headline

        start, end = f"  step {step:>{len(str(total))}} of {total}", f"   {duration(seconds)}"
        room = LINE_WIDTH - len(start + end)
        numbers = _numbers(metrics, len(metrics)) if self._output.verbose else headline(metrics, room)
        self._output.progress(stage, step, total, headline(metrics, WIDTH_BESIDE_BAR).strip())
        every = max(1, -(-total // LINES_PER_STAGE))
        if self._output.verbose or stage not in self._seen or step == total or step % every == 0 or self._is_due(stage):
            self._seen.add(stage)
            self._last_line[stage] = time.monotonic()
            self._output.say(f"{start}{numbers}{end}")

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        self._output.progress(stage, done, total, unit)
        if self._is_due(stage) and not self._output.on_terminal:
            self._last_line[stage] = time.monotonic()
            self._output.say(f"  {stage}: {done} of {total} {unit}")

    def _is_due(self, stage: str) -> bool:
        return time.monotonic() - self._last_line.setdefault(stage, time.monotonic()) >= SECONDS_BETWEEN_LINES


def _numbers(values: Mapping[str, Any], most: int) -> str:
    numbers = [(k, v) for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)]
    return "".join(f"   {key} {number(value)}" for key, value in numbers[:most])
