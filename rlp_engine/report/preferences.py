"""How far the policy drifted from the pairs, and what SPG made of its samples."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rlp_engine.report import figures, names
from rlp_engine.report.html import Markup, clip, number, tag
from rlp_engine.report.pair_facts import confirmed, pair_facts
from rlp_engine.report.read import Decisions, RunFiles, StageFiles, read_decisions, read_json

REASONS = {  # methods.synthetic_preferences.Reason -> (words, colour)
    "accepted": ("accepted", 3),
    "low-confidence": ("confidence too low", 2),
    "one-cluster": ("one cluster only: nothing to reject", 0),
    "equal": ("equal: nothing to prefer", 5),
    "unparsed": ("judgement not readable", 4),
}
SIDES = {"preferences": ("preference pairs", 0), "sft": ("SFT answers", 5), "policy": ("policy answers", 1)}
MEASURES = (
    ("frechet", "Fréchet distance of hidden states", 2, "to the preference pairs"),
    ("classifier_auc", "Classifier AUC", 3, "0.5: cannot be told from the pairs"),
    ("reward_mean", "Mean reward", 2, "by the current reward model"),
    ("reward_std", "Spread of the reward", 2, "standard deviation"),
    ("tokens_mean", "Mean length", 1, "tokens"),
    ("characters_mean", "Mean length", 1, "characters"),
)
MOST_EXAMPLES = 8
MOST_TEXTS = 6  # clusters shown of one prompt


def drift_section(run: RunFiles) -> Markup | None:
    """Bars for each embed stage: preference pairs, SFT answers, policy answers."""
    blocks = []
    for index, stage in enumerate(run.of_kind("embed")):
        drift = read_json(stage.path / "drift.json", run.problems)
        if drift:
            title = tag("h3", stage.name) if len(run.of_kind("embed")) > 1 else None
            blocks.append(tag("div", title, tag("div", _drift_figures(drift, index), class_="grid")))
    if not blocks:
        return None
    return tag(
        "section",
        tag("h2", "Distribution shift"),
        tag(
            "p",
            "What the reward model was trained on against what the policy now writes, in the reward model's own hidden "
            "states. Distances are from the preference pairs; SFT answers show what no training would give.",
            class_="muted",
        ),
        blocks,
        id="drift",
    )


def _drift_figures(drift: Mapping[str, Any], stage_index: int) -> list[Markup]:
    sides = [
        side for side in (*SIDES, *(key for key in drift if key not in SIDES)) if isinstance(drift.get(side), Mapping)
    ]
    figures_ = []
    for key, title, _digits, unit in MEASURES:
        values = [
            (*_side(side), drift[side].get(key)) for side in sides if isinstance(drift[side].get(key), int | float)
        ]
        if not values:
            continue
        svg = figures.bars(
            [(label, float(value), colour) for label, colour, value in values],
            name=f"drift-{stage_index}-{key}",
            title=f"{title}, {unit}: " + ", ".join(f"{label} {number(value)}" for label, _, value in values),
            base=("chance", 0.5) if key == "classifier_auc" else None,
        )
        figures_.append(tag("figure", tag("h4", title, tag("span", unit)), svg))
    return figures_


def _side(side: str) -> tuple[str, int]:
    return SIDES.get(side, (side, 7))


def synthesis_section(run: RunFiles, results: Mapping[str, Any] | None, colours: Mapping[str, int]) -> Markup | None:
    """What the judge confirms; then acceptance, histogram and clusters to read of each synthesize stage."""
    stages = [stage for stage in run.of_kind("synthesize") if (stage.path / "decisions.jsonl").is_file()]
    blocks = [_synthesis(stage, run, index) for index, stage in enumerate(stages)]
    if not blocks:
        return None
    return tag(
        "section",
        tag("h2", "Synthetic preferences"),
        tag(
            "p",
            "Answers that mean the same form a cluster. The largest cluster's best-rewarded answer is preferred to an "
            "answer from outside it, when the cluster is large enough. Reward pair and RLAIF compare two answers drawn "
            "at random instead, by the reward model or by the policy itself.",
            class_="muted",
        ),
        confirmed(results, colours),
        blocks,
        id="synthetic",
    )


def _synthesis(stage: StageFiles, run: RunFiles, index: int) -> Markup:
    decisions = read_decisions(stage.path / "decisions.jsonl", run.problems)
    reasons = [reason for reason in REASONS if decisions.reasons[reason]]
    reasons += sorted(reason for reason in decisions.reasons if reason not in REASONS)
    legend = [
        tag("span", tag("span", class_=f"dot c{_reason(reason)[1]}"), _share(decisions, reason)) for reason in reasons
    ]
    histogram = None
    if decisions.by_confidence:
        svg = figures.stacked_histogram(
            decisions.by_confidence,
            [(reason, _reason(reason)[1]) for reason in reasons],
            name=f"confidence-{index}",
            title="Prompts by confidence and by what became of them",
            gamma=_gamma(stage),
        )
        histogram = tag("figure", svg, class_="wide")
    label = names.parse(stage.name).label
    return tag(
        "div",
        tag("h3", label, tag("span", stage.status, class_="tag") if stage.status != "done" else None),
        pair_facts(stage, run),
        tag("div", legend, class_="legend"),
        histogram,
        _examples(decisions),
    )


def _share(decisions: Decisions, reason: str) -> str:
    count, total = decisions.reasons[reason], sum(decisions.reasons.values())
    return f"{_reason(reason)[0]}: {number(count)} of {number(total)} ({number(100 * count / total, 1)} %)"


def _reason(reason: str) -> tuple[str, int]:
    return REASONS.get(reason, (reason, 7))


def _gamma(stage: StageFiles) -> float | None:
    """The threshold this method used: Select-All is gamma 0 whatever the config says."""
    if "select-all" in stage.name.split("/"):
        return None
    config = stage.record.get("config")
    section = config.get("synthesize") if isinstance(config, Mapping) else None
    gamma = section.get("min_confidence") if isinstance(section, Mapping) else None
    return float(gamma) if isinstance(gamma, int | float) else None


def _examples(decisions: Decisions) -> Markup | None:
    rows = [row for row in decisions.examples if isinstance(row.get("texts"), list)]
    if not rows:
        return None
    # The most telling first: accepted ones from sure to unsure, then the others.
    rows.sort(key=lambda row: (row.get("reason") != "accepted", -row["confidence"]))
    accepted = [row for row in rows if row.get("reason") == "accepted"][: MOST_EXAMPLES - 2]
    others = [row for row in rows if row.get("reason") != "accepted"][: MOST_EXAMPLES - len(accepted)]
    shown = accepted + others
    return tag(
        "details",
        tag("summary", f"Clusters of {len(shown)} prompts"),
        tag("div", [_cluster_example(row) for row in shown], class_="examples"),
        open="" if shown else None,
    )


def _cluster_example(row: Mapping[str, Any]) -> Markup:
    texts = [str(text) for text in row["texts"]]
    ids = row.get("cluster_ids")
    ids = ids if isinstance(ids, list) and len(ids) == len(texts) else list(range(len(texts)))
    chosen, rejected = _index(row.get("chosen"), texts), _index(row.get("rejected"), texts)
    sizes = Counter(map(str, ids))
    lines = []
    for cluster, size in sizes.most_common():
        members = [i for i, name in enumerate(ids) if str(name) == cluster]
        shown = next((i for i in members if i in (chosen, rejected)), members[0])
        marks = [("chosen", "preferred")] * (shown == chosen) + [("rejected", "rejected")] * (shown == rejected)
        tags = [tag("span", words, class_=f"tag {kind}") for kind, words in marks]
        lines.append((bool(tags), _answer(f"{size} of {len(texts)}", texts[shown], tags)))
    marked = [line for is_marked, line in lines if is_marked]
    plain = list(itertools.islice((line for is_marked, line in lines if not is_marked), MOST_TEXTS - len(marked)))
    left = len(lines) - len(marked) - len(plain)
    words = _reason(str(row.get("reason")))[0]
    return tag(
        "div",
        tag("p", clip(str(row.get("instruction", "")), 600), class_="question"),
        tag("p", f"confidence {number(float(row['confidence']), 2)} · {words}", class_="note"),
        marked + plain,
        tag("p", f"and {left} more clusters", class_="note") if left > 0 else None,
        class_="example",
    )


def _index(value: Any, texts: Sequence[str]) -> int | None:
    """Decisions name an answer by its index; a text is looked up."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if 0 <= value < len(texts) else None
    return texts.index(value) if value in texts else None


def _answer(who: str, said: str, tags: Sequence[Markup] = ()) -> Markup:
    text = clip(said.strip()) or "(empty)"
    return tag(
        "div",
        tag("div", who, class_="who"),
        tag("div", tag("span", text, class_="said", dir="auto"), tags),
        class_="answer",
    )
