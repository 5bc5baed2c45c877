"""How the run was made: stages, times, versions, settings, and what of the directory could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlp_engine.report.html import Markup, clip, number, tag
from rlp_engine.report.read import RunFiles, StageFiles

MOST_SETTINGS = 30_000  # characters of run.toml on the page


def section(run: RunFiles) -> Markup:
    head = ["Stage", "Status", "Time", "Peak memory", "of it at start", "Attempts", "Seed", "Why it ran"]
    rows = [_row(stage) for stage in run.stages]
    table = tag(
        "table",
        tag(
            "thead",
            tag("tr", [tag("th", text, scope="col", class_="text" if text == head[-1] else None) for text in head]),
        ),
        tag("tbody", rows),
    )
    problems = dict.fromkeys(run.problems)
    return tag(
        "section",
        tag("h2", "How it was made"),
        tag("div", table, class_="scroll") if rows else tag("p", "No stage has begun.", class_="muted"),
        _machine(run),
        tag("div", tag("h3", "Not readable"), [tag("p", text, class_="bad") for text in problems])
        if problems
        else None,
        _settings(run),
        id="stages",
    )


def duration(seconds: object) -> str:
    """1 h 12 min, 3 min 20 s, 4.1 s."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds >= 0:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _row(stage: StageFiles) -> Markup:
    record = stage.record
    return tag(
        "tr",
        tag("td", stage.name),
        tag("td", tag("span", stage.status, class_=f"tag {stage.status}")),
        tag("td", duration(record.get("seconds"))),
        tag("td", _peak(record)),
        tag("td", _gibibytes(record.get("start_rss_bytes"))),
        tag("td", _attempts(record)),
        tag("td", number(record.get("seed"))),
        tag("td", clip(str(record.get("reason") or record.get("message") or ""), 90), class_="text"),
    )


def _peak(record: Mapping[str, Any]) -> str:
    """Of the process; with an accelerator also of its memory."""
    device = record.get("peak_device_bytes")
    own = _gibibytes(record.get("peak_rss_bytes"))
    return f"{own} + {_gibibytes(device)} GPU" if isinstance(device, int | float) else own


def _gibibytes(size: object) -> str:
    return number(size / 2**30, 2, unit=" GiB") if isinstance(size, int | float) else "–"


def _attempts(record: Mapping[str, Any]) -> str:
    attempts = record.get("attempts", record.get("attempt"))
    return number(len(attempts) if isinstance(attempts, list) else attempts)


def _machine(run: RunFiles) -> Markup | None:
    """Versions and devices; a value that differs between stages is shown with each of its versions."""
    seen: dict[str, dict[str, None]] = {}
    for stage in run.stages:
        for group in ("versions", "platform"):
            values = stage.record.get(group)
            for key, value in values.items() if isinstance(values, Mapping) else ():
                seen.setdefault(str(key).replace("_", " "), {})[str(value)] = None
    if not seen:
        return None
    return tag(
        "p", [tag("span", f"{key} ", tag("b", ", ".join(values))) for key, values in seen.items()], class_="facts"
    )


def _settings(run: RunFiles) -> Markup | None:
    text = run.settings_text
    if not text:
        return None
    return tag("details", tag("summary", "run.toml"), tag("pre", tag("code", clip(text, MOST_SETTINGS))))
