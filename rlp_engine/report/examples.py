"""Texts to read: the policies' answers side by side, and what PPO wrote early and late."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlp_engine.report import names
from rlp_engine.report.html import Markup, clip, number, tag
from rlp_engine.report.read import RunFiles, StageFiles, read_lines, sample_files

MOST_SIDE_BY_SIDE = 8
MOST_PAIRS = 4
ANSWERS_PER_STEP = 3


def section(run: RunFiles) -> Markup | None:
    """Evaluation answers, PPO samples, labelled pairs; what the run has of them."""
    parts = [_side_by_side(run), _ppo_samples(run), _labelled_pairs(run)]
    if not any(parts):
        return None
    return tag(
        "section",
        tag("h2", "Read it"),
        tag("p", "Numbers can be gamed; texts show how. The first ones in the files, not picked.", class_="muted"),
        parts,
        id="read",
    )


def _side_by_side(run: RunFiles) -> Markup | None:
    """The first instructions of evaluate/annotations.jsonl, which holds one row a policy and instruction."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for stage in run.of_kind("evaluate"):
        for row in read_lines(stage.path / "annotations.jsonl", run.problems):
            key = (str(row.get("instruction")), str(row.get("input")), str(row.get("output_1")))
            if key in groups or len(groups) < MOST_SIDE_BY_SIDE:
                groups.setdefault(key, []).append(row)
    if not groups:
        return None
    blocks = [_judged(rows) for rows in groups.values()]
    return tag("div", tag("h3", "The same question, every policy"), tag("div", blocks, class_="examples"))


def _judged(rows: Sequence[Mapping[str, Any]]) -> Markup:
    lines = [_line("reference", str(rows[0].get("output_1", "")))]
    for row in rows:
        label = names.parse(str(row.get("generator_2"))).label
        lines.append(_line(label, str(row.get("output_2", "")), _verdict(row.get("preference"))))
    return tag("div", _question(rows[0]), lines, class_="example")


def _verdict(preference: Any) -> Markup | None:
    if not isinstance(preference, int | float):
        return None
    word, tone = ("won", "chosen") if preference > 1.5 else ("lost", "rejected") if preference < 1.5 else ("draw", "")
    return tag("span", word, class_=f"tag {tone}".strip())


def _ppo_samples(run: RunFiles) -> Markup | None:
    folds = [fold for stage in run.of_kind("ppo") if (fold := _samples_of(stage, run))]
    if not folds:
        return None
    return tag("div", tag("h3", "What PPO wrote while it trained"), folds)


def _samples_of(stage: StageFiles, run: RunFiles) -> Markup | None:
    files = sample_files(stage)
    wanted = {files[i] for i in (0, len(files) // 2, -1)} if files else set()
    steps = [_step(step, path, run) for step, path in sorted(wanted)]
    if not steps:
        return None
    label = names.parse(stage.name).label
    return tag("details", tag("summary", f"{label}: steps {', '.join(str(s) for s, _ in sorted(wanted))}"), steps)


def _step(step: int, path: Path, run: RunFiles) -> Markup:
    rows = list(itertools.islice(read_lines(path, run.problems), ANSWERS_PER_STEP))
    blocks = [
        tag("div", _question(row), _line(_facts(row), str(row.get("response", ""))), class_="example") for row in rows
    ]
    return tag("div", tag("h3", f"Step {step}"), tag("div", blocks, class_="examples"))


def _facts(row: Mapping[str, Any]) -> str:
    parts = [f"{key} {number(row[key], 2)}" for key in ("score", "kl") if isinstance(row.get(key), int | float)]
    if isinstance(row.get("tokens"), int):
        parts.append(f"{row['tokens']} tokens")
    if row.get("ended") is False:
        parts.append("cut off")
    return ", ".join(parts)


def _labelled_pairs(run: RunFiles) -> Markup | None:
    blocks = []
    for stage in run.of_kind("collect"):
        for row in itertools.islice(read_lines(stage.path / "pairs.jsonl", run.problems), MOST_PAIRS):
            prompt = row.get("prompt") if isinstance(row.get("prompt"), Mapping) else {}
            lines = [
                _line("preferred", str(row.get("chosen", ""))),
                _line("rejected", str(row.get("rejected", ""))),
            ]
            blocks.append(tag("div", _question(prompt), lines, class_="example"))
    if not blocks:
        return None
    return tag("details", tag("summary", f"{len(blocks)} labelled pairs of D"), tag("div", blocks, class_="examples"))


def _question(row: Mapping[str, Any]) -> Markup:
    parts: Sequence[str] = [str(row[key]) for key in ("instruction", "input") if row.get(key)]
    return tag("p", clip("\n".join(parts), 600), class_="question", dir="auto")


def _line(who: str, said: str, note: Markup | None = None) -> Markup:
    text = tag("span", clip(said.strip()) or "(empty)", class_="said", dir="auto")
    return tag("div", tag("div", who, class_="who"), tag("div", text, note), class_="answer")
