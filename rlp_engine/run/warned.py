"""What the stages of a run warned of, read back from events.jsonl: for `rlp status` and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlp_engine.run.events import read_lines

MOST_KEPT = 200  # warnings of a stage; a stranger's file may hold any number


@dataclass(frozen=True)
class Warned:
    """A warning of a stage that may still concern its outputs."""

    step: int
    message: str


def warned(events: Path) -> dict[str, list[Warned]]:
    """Stage -> the warnings of its steps, oldest first, since it last began at its first step.

    A stage that was killed and continued does some steps again, and may warn again: that counts once.
    """
    found: dict[str, dict[Warned, None]] = {}
    for event in read_lines(events):
        stage, step, message = (event.get(key) for key in ("stage", "step", "message"))
        if not isinstance(stage, str):
            continue
        if event.get("event") == "started" and event.get("will") != "continue":
            found[stage] = {}
        if event.get("event") == "warned" and isinstance(step, int) and isinstance(message, str):
            own = found.setdefault(stage, {})
            if len(own) < MOST_KEPT:
                own[Warned(step, message)] = None
    return {stage: list(own) for stage, own in found.items() if own}
