"""Clusters of equivalent answers for many prompts at once.

The clusters are those of the sequential algorithm (METHOD 3.1): `ClusterRounds` asks its very questions, round
r of every prompt in the same batch. Nothing is asked twice: exact duplicates share a cluster without a
question, and a question that two equal prompts raise is asked once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlp_engine.data.records import Prompt
from rlp_engine.methods.entailment_clusters import ClusterRounds, first_occurrences
from rlp_engine.semantics.equivalence import Comparison, Equivalence


@dataclass(frozen=True)
class Clustering:
    """`cluster_ids[i][j]`: cluster of answer j to prompt i, from 0 in order of creation."""

    cluster_ids: list[list[int]]
    asked: int  # comparisons the equivalence answered
    walked: int  # comparisons of the sequential walk, each answer by itself: what `asked` would be without sharing
    all_pairs: int  # n (n - 1) / 2 a prompt, the worst case
    counts: dict[str, int] = field(
        default_factory=dict
    )  # what the equivalence counted meanwhile (model calls, texts cut)


def cluster_prompts(items: Sequence[tuple[Prompt, Sequence[str]]], equivalence: Equivalence) -> Clustering:
    """Cluster the answers of each prompt.

    Args:
        items: (prompt, its answers in sampling order). A block of some hundred prompts fills the batches
            without holding all samples in memory.
        equivalence: asked (first member of a cluster, answer); both stripped of outer white space.

    Deterministic: the same items give the same clusters in any block size, as far as the equivalence's answer
    does not depend on the batch it is asked in.
    """
    before = equivalence.counts()
    texts = [[answer.strip() for answer in answers] for _, answers in items]
    rounds = [ClusterRounds(len(answers), first_occurrences(answers)) for answers in texts]
    asked = 0
    while True:
        questions = [
            (i, Comparison(items[i][0], texts[i][leader], texts[i][answer]))
            for i, one in enumerate(rounds)
            for leader, answer in one.questions()
        ]
        unique = {_key(comparison): comparison for _, comparison in questions}
        asked += len(unique)
        verdicts = dict(zip(unique, equivalence.equivalent(list(unique.values())), strict=True)) if unique else {}
        answers: list[list[bool]] = [[] for _ in rounds]
        for i, comparison in questions:
            answers[i].append(verdicts[_key(comparison)])
        for one, row in zip(rounds, answers, strict=True):
            if not one.done:
                one.answer(row)
        if all(one.done for one in rounds):
            break
    cluster_ids = [one.cluster_ids for one in rounds]
    return Clustering(
        cluster_ids=cluster_ids,
        asked=asked,
        walked=sum(_walk_length(ids) for ids in cluster_ids),
        all_pairs=sum(len(ids) * (len(ids) - 1) // 2 for ids in cluster_ids),
        counts={name: count - before.get(name, 0) for name, count in equivalence.counts().items()},
    )


def _key(comparison: Comparison) -> tuple[str, ...]:
    """Everything that an equivalence may look at: equal keys have equal answers."""
    prompt = comparison.prompt
    return (prompt.instruction, prompt.input, repr(prompt.meta), comparison.leader, comparison.answer)


def _walk_length(cluster_ids: Sequence[int]) -> int:
    """Leaders that the sequential walk meets: an answer that joins cluster c asks c + 1 of them, one that
    opens it asks c."""
    seen: set[int] = set()
    steps = 0
    for cluster in cluster_ids:
        steps += cluster + (cluster in seen)
        seen.add(cluster)
    return steps
