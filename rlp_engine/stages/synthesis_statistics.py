"""What `synthesize` reports of its pairs, in statistics.json and to people (METHOD 3.4, 3.6)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Protocol

from rlp_engine.data.records import PreferencePair
from rlp_engine.methods.entailment_clusters import discrete_entropy, kuhn_semantic_entropy, semantic_entropy
from rlp_engine.methods.synthetic_preferences import Decision, summarise, summarise_rlaif
from rlp_engine.stages.rlaif import Judgement
from rlp_engine.stages.spec import StageContext

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


def statistics_of(rows: Sequence[Decided], pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """statistics.json, without what the equivalence counted."""
    judged = [row.judgement for row in rows if row.judgement]
    rlaif = summarise_rlaif([judgement.orders for judgement in judged if judgement.orders])
    rlaif["rlaif_shortened"] = sum(judgement.shortened for judgement in judged)
    rlaif["rlaif_unparsed"] = sum(judgement.orders is None for judgement in judged)
    return {
        **summarise([row.decision for row in rows]),
        **lengths(pairs),
        **mean_entropies(rows),
        **(rlaif if judged else {}),
    }


def entropies(cluster_ids: Sequence[int], mean_logprobs: Sequence[float]) -> dict[str, float]:
    """How uncertain the policy is of what its answers mean, three ways, nats. Diagnostics only (METHOD 3.6).

    Args:
        mean_logprobs: l_s of each answer: mean log-likelihood a token, nats, at the sampling temperature.
    """
    values = {
        "discrete": discrete_entropy(cluster_ids),
        "semantic": semantic_entropy(cluster_ids, mean_logprobs),
        "kuhn": kuhn_semantic_entropy(cluster_ids, mean_logprobs),
    }
    return {name: value + 0.0 for name, value in values.items()}  # + 0.0: one cluster is 0, not -0


def mean_entropies(rows: Sequence[Decided]) -> dict[str, float]:
    """Means over the prompts whose answers were clustered; nothing where none were."""
    found = [entropies(row.cluster_ids, row.group.mean_logprobs) for row in rows if row.cluster_ids]
    return {f"entropy_{name}": statistics.fmean(row[name] for row in found) for name in found[0]} if found else {}


def lengths(pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """Mean characters of y_w and y_l (the paper: 510 and 449)."""
    if not pairs:
        return {}
    return {
        "chosen_characters": statistics.fmean(len(pair.chosen) for pair in pairs),
        "rejected_characters": statistics.fmean(len(pair.rejected) for pair in pairs),
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
        discrete, semantic, kuhn = (statistics[f"entropy_{name}"] for name in ("discrete", "semantic", "kuhn"))
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
