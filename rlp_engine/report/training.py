"""Curves of policy optimisation and reward training, and how well each reward model orders each policy's answers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlp_engine.report import figures, names
from rlp_engine.report.figures import Curve
from rlp_engine.report.html import Markup, clip, number, tag
from rlp_engine.report.read import RunFiles, StageFiles

SHOWN_ALARMS = 10  # of a stage, the last ones
NOT_CURVES = re.compile(r"step|seconds|.*_seconds|epoch")


@dataclass(frozen=True)
class Panel:
    """A metric shown first: `keys` in order of preference, the first that a stage has is drawn."""

    keys: tuple[str, ...]
    title: str
    unit: str


PPO_PANELS = (
    Panel(("score",), "Reward-model score", "mean, each under its own reward model"),
    Panel(("reward",), "Reward with KL penalty", "mean of a sequence"),
    Panel(("kl_k1", "kl_k3", "kl_clamped", "kl"), "KL from the SFT policy", "nats a sequence"),
    Panel(("length",), "Length", "tokens"),
    Panel(("eos_share",), "Answers that end in EOS", "share"),
    Panel(("entropy",), "Entropy", "nats a token, from the samples"),
    Panel(("distinct_2",), "Distinct bigrams", "share of all bigrams"),
    Panel(("held_out_agreement", "agreement"), "Agreement with held-out pairs", "share"),
    Panel(("clip_fraction",), "Clip fraction", "share of ratios"),
    Panel(("explained_variance",), "Explained variance of the values", "1 is perfect"),
)
REWARD_PANELS = (
    Panel(("loss",), "Loss", "nats"),
    Panel(("bradley_terry",), "Bradley-Terry loss", "nats; ln 2 = 0.693 is chance"),
    Panel(("accuracy", "pair_accuracy"), "Accuracy on training pairs", "share of the minibatch"),
    Panel(("multi_view",), "Multi-view loss", "nats"),
    Panel(("jsd",), "Jensen-Shannon bound J of the views", "−1.386: the critic sees nothing"),
    Panel(("skl",), "Symmetrised KL of the views", "nats"),
    Panel(("nwj",), "Mutual information (NWJ bound)", "nats"),
)


def ppo_section(run: RunFiles, colours: Mapping[str, int]) -> Markup | None:
    """All PPO stages over each other, one figure a metric."""
    stages = [stage for stage in run.of_kind("ppo") if stage.metrics]
    if not stages:
        return None
    return tag(
        "section",
        tag("h2", "Policy optimisation"),
        tag(
            "p",
            "Every PPO stage of the run. Scores of different reward models have no common scale; KL, length and "
            "entropy do. Pale lines are the raw numbers, strong ones a moving average.",
            class_="muted",
        ),
        _alarms(run, stages),
        _legend(stages, colours),
        _grids(stages, PPO_PANELS, colours, "ppo"),
        id="ppo",
    )


def _alarms(run: RunFiles, stages: Sequence[StageFiles]) -> Markup | None:
    """What `ppo.health` warned of, and what it stopped a stage for."""
    rows = []
    for stage in stages:
        told = [(str(one.step), one.message) for one in run.warned.get(stage.name, [])]
        ended = str(stage.record.get("message", "")) if stage.status == "failed" else ""
        if ended and not any(text in ended for _, text in told):
            told.append(("end", ended))
        rows += [
            tag("tr", tag("td", _stage_label(stage)), tag("td", step), tag("td", clip(text)))
            for step, text in told[-SHOWN_ALARMS:]
        ]
    if not rows:
        return None
    head = tag("thead", tag("tr", [tag("th", text, scope="col") for text in ("Stage", "Step", "Alarm")]))
    table = tag("table", head, tag("tbody", rows))
    return tag("div", tag("h3", "Alarms"), tag("div", table, class_="scroll"), class_="alarms")


def reward_section(run: RunFiles, results: Mapping[str, Any] | None, colours: Mapping[str, int]) -> Markup | None:
    """Accuracy on each policy's answers, and the training curves."""
    stages = [stage for stage in run.stages if stage.kind in ("train-rm", "refine-rm") and stage.metrics]
    models = [m for m in (results or {}).get("reward_models") or [] if isinstance(m, Mapping) and m.get("accuracy")]
    if not stages and not models:
        return None
    return tag(
        "section",
        tag("h2", "Reward models"),
        _accuracies(models, run, colours) if models else None,
        tag("h3", "Training") if stages else None,
        _legend(stages, colours) if stages else None,
        _grids(stages, REWARD_PANELS, colours, "rm") if stages else None,
        id="reward-models",
    )


def _accuracies(models: Sequence[Mapping[str, Any]], run: RunFiles, colours: Mapping[str, int]) -> Markup:
    """All pairs; and, where the judge knows, those of which one answer is right and one is wrong."""
    differing = [{**model, "accuracy": _differing(model["accuracy"])} for model in models]
    return tag(
        "div",
        tag("h3", "Accuracy on the policies' own answers"),
        tag(
            "p",
            "Share of pairs of a policy's answers to one instruction that a reward model orders as the judge does. "
            "50 % is chance. A reward model trained only on the SFT policy's pairs loses accuracy as the policy moves "
            "away: that loss is what learning on policy repairs.",
            class_="muted",
        ),
        _accuracy_table(models, _held_out(run), colours),
        [
            tag("h3", "Accuracy on pairs of which one answer is right"),
            tag("p", "The same for pairs that differ in correctness: style alone does not help here.", class_="muted"),
            _accuracy_table(differing, {}, colours),
        ]
        if any(model["accuracy"] for model in differing)
        else None,
    )


def _differing(cells: Mapping[str, Any]) -> dict[str, Any]:
    """policy -> accuracy on pairs that differ in correctness, where there is one."""
    return {p: cell["differing"] for p, cell in cells.items() if isinstance(cell, Mapping) and "differing" in cell}


def _accuracy_table(
    models: Sequence[Mapping[str, Any]], held_out: Mapping[tuple[int, str], Any], colours: Mapping[str, int]
) -> Markup:
    policies = list(dict.fromkeys(policy for model in models for policy in model["accuracy"]))
    head = [tag("th", "Reward model", scope="col")]
    if held_out:
        head.append(tag("th", "on held-out pairs of D", scope="col"))
    head += [tag("th", f"on {names.parse(policy).label}", scope="col", title=policy) for policy in policies]
    rows = []
    for model in models:
        name = names.parse(str(model.get("name", "unnamed")))
        sub = tag("span", name.note or name.full, class_="sub")
        cells = [tag("td", tag("span", class_=f"dot c{colours.get(name.method, 0)}"), name.label, sub)]
        if held_out:
            cells.append(_heat(held_out.get((name.round, name.method))))
        rows.append(tag("tr", cells, [_heat(model["accuracy"].get(policy)) for policy in policies]))
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="heatmap")
    return tag("div", table, class_="scroll")


def _held_out(run: RunFiles) -> dict[tuple[int, str], dict[str, Any]]:
    """(round, method) -> accuracy of its reward model on the pairs of D that none was trained on."""
    found = {}
    for stage in run.stages:
        summary = stage.record.get("summary")
        if stage.kind in ("train-rm", "refine-rm") and isinstance(summary, Mapping) and "held_out_accuracy" in summary:
            name = names.parse(stage.name)
            cell = {"accuracy": summary["held_out_accuracy"], "n": summary.get("held_out_pairs")}
            found[name.round, name.method] = cell
    return found


def _heat(cell: Any) -> Markup:
    accuracy = cell.get("accuracy") if isinstance(cell, Mapping) else None
    if not isinstance(accuracy, int | float) or not math.isfinite(accuracy):
        return tag("td", "–", class_="heat")
    strength = min(1.0, abs(accuracy - 0.5) * 2)
    colour = "series-1" if accuracy >= 0.5 else "bad"
    style = f"background: color-mix(in srgb, var(--{colour}) {8 + 62 * strength:.0f}%, transparent)"
    pairs = f"n = {number(cell.get('n'))}" if cell.get("n") is not None else None
    return tag("td", number(100 * accuracy, 1, unit=" %"), tag("span", pairs, class_="sub"), class_="heat", style=style)


def _grids(stages: Sequence[StageFiles], panels: Sequence[Panel], colours: Mapping[str, int], prefix: str) -> Markup:
    """The known metrics, and in a fold every other number that a stage logged."""
    shown: set[str] = set()
    first = []
    for index, panel in enumerate(panels):
        lines, used = _lines(stages, panel.keys, colours)
        shown |= used
        if lines:
            first.append(_figure(lines, f"{prefix}-{index}", panel.title, panel.unit))
    everything = dict.fromkeys(key for stage in stages for row in stage.metrics for key in row)
    others = []
    for index, key in enumerate(key for key in everything if key not in shown and not NOT_CURVES.fullmatch(key)):
        lines, _ = _lines(stages, (key,), colours)
        if lines:
            others.append(_figure(lines, f"{prefix}-other-{index}", key.replace("_", " "), ""))
    more = tag("details", tag("summary", f"Other metrics ({len(others)})"), tag("div", others, class_="grid"))
    return tag("div", tag("div", first, class_="grid"), more if others else None)


def _lines(
    stages: Sequence[StageFiles], keys: Sequence[str], colours: Mapping[str, int]
) -> tuple[list[Curve], set[str]]:
    lines, used = [], set()
    for stage in stages:
        key = next((key for key in keys if any(key in row for row in stage.metrics)), None)
        if key is None:
            continue
        used.add(key)
        name = names.parse(stage.name)
        points = [(row["step"], row[key]) for row in stage.metrics if key in row]
        x, y = zip(*points, strict=True)
        lines.append(Curve(_stage_label(stage), x, y, colours.get(name.method, 0), max(0, name.round - 1)))
    return lines, used


def _figure(lines: Sequence[Curve], name: str, title: str, unit: str) -> Markup:
    svg = figures.curves(lines, name=name, title=title)
    return tag("figure", tag("h4", title, tag("span", unit)), svg)


def _legend(stages: Sequence[StageFiles], colours: Mapping[str, int]) -> Markup:
    entries = []
    for stage in stages:
        name = names.parse(stage.name)
        dash = f" dash{min(3, name.round - 1)}" if name.round > 1 else ""
        dot = tag("span", class_=f"dot c{colours.get(name.method, 0)}{dash}")
        entries.append(tag("span", dot, _stage_label(stage)))
    return tag("div", entries, class_="legend")


def _stage_label(stage: StageFiles) -> str:
    label = names.parse(stage.name).label
    return label if stage.status == "done" else f"{label} ({stage.status})"
