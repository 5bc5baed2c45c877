"""What `synthesize` reports of its pairs, in statistics.json and to people (METHOD 3.4, 3.6)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from rlp_engine.data.records import PreferencePair
from rlp_engine.methods.entailment_clusters import discrete_entropy, kuhn_semantic_entropy, semantic_entropy
from rlp_engine.methods.synthetic_preferences import (
    Decision,
    count_decisions,
    count_judgements,
    decision_rates,
    rlaif_rates,
)
from rlp_engine.stages.rlaif import Judgement
from rlp_engine.stages.spec import StageContext

ENTROPIES = ("discrete", "semantic", "kuhn")
HISTOGRAM_WIDTH = 30  # characters of the longest bar


class HasLikelihoods(Protocol):
    mean_logprobs: list[float]


class Decided(Protocol):
    """A prompt and what became of it (`synthesize.Row`)."""

    @property
    def group(self) -> HasLikelihoods: ...
    @property
    def cluster_ids(self) -> list[int] | None: ...
    @property
    def judgement(self) -> Judgement | None: ...
    @property
    def decision(self) -> Decision: ...


Sums = dict[str, dict[str, float]]
"""What a shard adds to statistics.json: sums by subject, so that shards can be added up in any order of making."""


def sums_of(rows: Sequence[Decided], pairs: Sequence[PreferencePair]) -> Sums:
    """Of the prompts of one shard."""
    judged = [row.judgement for row in rows if row.judgement]
    found = [entropies(row.cluster_ids, row.group.mean_logprobs) for row in rows if row.cluster_ids]
    return {
        "decisions": count_decisions(row.decision for row in rows),
        "characters": {
            "pairs": len(pairs),
            "chosen": sum(len(pair.chosen) for pair in pairs),
            "rejected": sum(len(pair.rejected) for pair in pairs),
        },
        "entropies": {
            "clustered": len(found),
            **{name: math.fsum(row[name] for row in found) for name in ENTROPIES},
        },
        "judgements": {
            **count_judgements([judgement.orders for judgement in judged if judgement.orders]),
            "shortened": sum(judgement.shortened for judgement in judged),
            "unparsed": sum(judgement.orders is None for judgement in judged),
        },
    }


def added(parts: Iterable[Sums]) -> Sums:
    """Sums of all shards. Floats are added in the order of the shards, whoever made them."""
    total: Sums = {}
    for part in parts:
        for subject, sums in part.items():
            own = total.setdefault(subject, {})
            for name, value in sums.items():
                own[name] = own.get(name, 0) + value
    return total


def statistics_of(sums: Sums) -> dict[str, Any]:
    """statistics.json, without what the equivalence counted."""
    judgements = sums["judgements"]
    rlaif = {f"rlaif_{name}": judgements[name] for name in ("shortened", "unparsed")}
    rlaif = {**rlaif_rates(judgements), **rlaif} if judgements["asked"] or judgements["unparsed"] else {}
    return {**decision_rates(sums["decisions"]), **lengths(sums), **mean_entropies(sums), **rlaif}


def entropies(cluster_ids: Sequence[int], mean_logprobs: Sequence[float]) -> dict[str, float]:
    """How uncertain the policy is of what its answers mean, three ways, nats. Diagnostics only (METHOD 3.6).

    Args:
        mean_logprobs: l_s of each answer: mean log-likelihood a token, nats, at the sampling temperature.
    """
    values = (
        discrete_entropy(cluster_ids),
        semantic_entropy(cluster_ids, mean_logprobs),
        kuhn_semantic_entropy(cluster_ids, mean_logprobs),
    )
    return {name: value + 0.0 for name, value in zip(ENTROPIES, values, strict=True)}  # + 0.0: one cluster is 0, not -0


def mean_entropies(sums: Sums) -> dict[str, float]:
    """Means over the prompts whose answers were clustered; nothing where none were."""
    found = sums["entropies"]
    return {f"entropy_{name}": found[name] / found["clustered"] for name in ENTROPIES} if found["clustered"] else {}


def lengths(sums: Sums) -> dict[str, float]:
    """Mean characters of y_w and y_l (the paper: 510 and 449)."""
    found = sums["characters"]
    if not found["pairs"]:
        return {}
    return {
        "chosen_characters": found["chosen"] / found["pairs"],
        "rejected_characters": found["rejected"] / found["pairs"],
    }


def tell(context: StageContext, statistics: dict[str, Any]) -> None:
    """The rates and the confidence histogram, for people."""
    report = context.reporter.line
    report(f"{context.spec.name}: {statistics['accepted']} of {statistics['prompts']} prompts give a pair")
    for line in (*histogram_lines(statistics["confidence_histogram"]), *fact_lines(statistics)):
        report(f"  {line}")


def histogram_lines(histogram: dict[str, int]) -> list[str]:
    most = max(histogram.values(), default=0)
    return [
        f"confidence {confidence}  {count:6d}  {'#' * round(HISTOGRAM_WIDTH * count / most)}"
        for confidence, count in histogram.items()
    ]


def fact_lines(statistics: dict[str, Any]) -> list[str]:
    """One line a fact, those that do not apply left out."""
    clustered, judged = bool(statistics["confidence_histogram"]), "rlaif_asked" in statistics
    rates = [("accepted", "acceptance_rate")]
    if clustered:
        rates += [("one cluster only", "one_cluster_rate"), ("low confidence", "low_confidence_rate")]
    else:
        rates += [("equal: no pair", "equal_rate")]
    rates += [("pairs whose y_l has the higher reward", "reversed_reward_rate")]
    if judged:
        rates += [
            ("the judge is 75% sure of its preference, or surer", "rlaif_confident_rate"),
            ("it prefers the same answer in both orders", "rlaif_consistent_rate"),
            ("mean probability of the first label (50%: no position bias)", "rlaif_first_label"),
        ]
    lines = [f"{label}: {statistics[name]:.1%}" for label, name in rates if statistics[name] is not None]
    if "chosen_characters" in statistics:
        lines.append(
            f"mean characters: y_w {statistics['chosen_characters']:.0f}, y_l {statistics['rejected_characters']:.0f}"
        )
    if clustered:
        discrete, semantic, kuhn = (statistics[f"entropy_{name}"] for name in ENTROPIES)
        lines.append(
            f"mean semantic entropy, nats: {discrete:.2f} by counts, {semantic:.2f} by likelihood, {kuhn:.2f} Kuhn"
        )
        lines.append(f"comparisons: {statistics['comparisons']} (naive: {statistics['naive_comparisons']})")
    if "nli_calls" in statistics:  # one by one, every comparison asks both ways
        lines.append(f"NLI calls: {statistics['nli_calls']} (naive: {2 * statistics['naive_comparisons']})")
    return lines + truncation_lines(statistics)


def truncation_lines(statistics: dict[str, Any]) -> list[str]:
    """What was cut to fit a model, 0 too: that nothing was cut is worth knowing."""
    kinds = (
        ("nli_truncated", "NLI pairs cut to synthesize.equivalence.max_length"),
        ("nli_questions_cut", "questions cut to synthesize.equivalence.question_tokens"),
        ("embedding_truncated", "texts cut to synthesize.equivalence.max_length"),
        ("rlaif_shortened", "comparisons with an answer cut to synthesize.rlaif.max_length"),
        ("rlaif_unparsed", "comparisons whose judgement cannot be read"),
    )
    return [f"{words}: {statistics[name]}" for name, words in kinds if name in statistics]
