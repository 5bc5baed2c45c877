"""Numbers about synthetic pairs: how many the judge confirms, what they are like, what it took to make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlp_engine.report.html import Markup, number, tag
from rlp_engine.report.read import RunFiles, StageFiles, read_lines
from rlp_engine.report.rows import dot, finite, label_of, method_of, percent, table

ENTROPIES = (("entropy_discrete", "by counts"), ("entropy_semantic", "by likelihood"), ("entropy_kuhn", "Kuhn's"))


def confirmed(results: Mapping[str, Any] | None, colours: Mapping[str, int]) -> Markup | None:
    """Share of each method's pairs whose order the judge confirms."""
    pairs = [row for row in (results or {}).get("synthetic_pairs") or [] if isinstance(row, Mapping)]
    if not pairs:
        return None
    rows = [
        tag(
            "tr",
            tag("td", dot(colours.get(method_of(row), 0)), label_of(row)),
            tag("td", f"{number(percent(row.get('accuracy')), 1)} ± {number(percent(row.get('standard_error')), 1)} %"),
            tag("td", number(row.get("n"))),
        )
        for row in pairs
    ]
    return tag(
        "div",
        tag("h3", "Pairs that the judge confirms"),
        tag("p", "A draw counts one half; 50 % is chance. One standard error, over pairs.", class_="muted"),
        table(["Method", "Confirmed", "Pairs"], rows),
    )


def pair_facts(stage: StageFiles, run: RunFiles) -> Markup | None:
    """Number and lengths of the pairs in pairs.jsonl, read a line at a time, and what the stage recorded."""
    count, chosen, rejected = 0, 0, 0
    for row in read_lines(stage.path / "pairs.jsonl", run.problems):
        count += 1
        chosen += len(str(row.get("chosen", "")))
        rejected += len(str(row.get("rejected", "")))
    if not count:
        return None
    summary = stage.record.get("summary")
    return tag(
        "p",
        tag("b", number(count)),
        f" pairs; preferred answers have {number(chosen / count, 0)} characters on average, "
        f"rejected ones {number(rejected / count, 0)}.",
        "".join(f" {sentence}" for sentence in _recorded(summary)) if isinstance(summary, Mapping) else None,
    )


def _recorded(summary: Mapping[str, Any]) -> list[str]:
    """What only the stage knows: rewards of the pairs, the policy's uncertainty, and what it cost."""
    sentences = []
    if finite(value := summary.get("reversed_reward_rate")):
        sentences.append(f"In {number(100 * value, 1)} % of the pairs the rejected answer has the higher reward.")
    entropies = [f"{number(summary[key], 2)} {words}" for key, words in ENTROPIES if finite(summary.get(key))]
    if entropies:
        sentences.append(f"Mean semantic entropy in nats: {', '.join(entropies)}.")
    asked, naive = summary.get("comparisons"), summary.get("naive_comparisons")
    if finite(asked) and finite(naive) and naive:
        sentences.append(f"Clustering asked {number(asked)} questions, {number(naive - asked)} less than one by one.")
        if finite(calls := summary.get("nli_calls")):
            sentences.append(f"The NLI model was called {number(calls)} times; one by one it is {number(2 * naive)}.")
    return [*sentences, *_of_rlaif(summary), *_cut(summary)]


def _of_rlaif(summary: Mapping[str, Any]) -> list[str]:
    if not finite(summary.get("rlaif_asked")):
        return []
    sure, same, first = (
        number(percent(summary.get(f"rlaif_{key}")), 1) for key in ("confident_rate", "consistent_rate", "first_label")
    )
    return [
        f"The judge compared {number(summary['rlaif_asked'])} pairs, each in both orders: it is 75 % sure or surer in "
        f"{sure} %, prefers the same answer in both orders in {same} %, and gives the label of the answer shown first "
        f"{first} % on average (50 %: no position bias)."
    ]


def _cut(summary: Mapping[str, Any]) -> list[str]:
    """Texts that were cut to fit a model."""
    kinds = (
        ("nli_truncated", "NLI pairs"),
        ("nli_questions_cut", "questions of NLI pairs"),
        ("embedding_truncated", "texts to embed"),
        ("rlaif_shortened", "answers in RLAIF's prompt"),
    )
    return [f"Cut to fit: {number(summary[key])} {words}." for key, words in kinds if finite(summary.get(key))]
