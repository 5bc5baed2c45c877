"""Answers that entail each other both ways are one cluster (Kuhn et al. 2023, arXiv:2302.09664, Algorithm 1).

An item joins the first cluster, in order of creation, whose first member (its leader) it is equivalent to; else it
opens a cluster. Equivalence need not be transitive, so the order matters and is kept: `ClusterRounds` asks exactly
the questions that `cluster` asks, only in rounds, so that many prompts can share a batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

EquivalenceRule = Literal["strict", "lax", "non-contradiction"]
Label = Literal["contradiction", "neutral", "entailment"]


def cluster(count: int, equivalent: Callable[[int, int], bool]) -> list[int]:
    """Cluster ids, from 0 in order of creation, of items 0 to count - 1.

    Args:
        equivalent: called with (leader, item), leader < item; at most count (count - 1) / 2 times.

    Raises:
        ValueError: if `count` is negative.
    """
    if count < 0:
        raise ValueError(f"count must be >= 0, got {count}")
    leaders: list[int] = []
    ids: list[int] = []
    for item in range(count):
        matches = (index for index, leader in enumerate(leaders) if equivalent(leader, item))
        found = next(matches, None)
        if found is None:
            found = len(leaders)
            leaders.append(item)
        ids.append(found)
    return ids


class ClusterRounds:
    """`cluster` in rounds: one round a cluster, all its questions at once.

    Round r asks every item that no earlier leader took whether it is equivalent to leader r, the first such item.
    Those are the very questions the sequential walk asks, none more, so the result is the same for any relation;
    and the r-th rounds of many prompts fit in one batch.

        rounds = ClusterRounds(len(answers))
        while not rounds.done:
            rounds.answer([ask(leader, item) for leader, item in rounds.questions()])
        rounds.cluster_ids

    Args:
        count: number of items.
        same_as: for each item the index of its first identical twin (`first_occurrences`), itself if none. Twins
            go where the first one goes, without a question: equal texts have equal answers.

    Raises:
        ValueError: if `count` is negative, or `same_as` does not point at first twins.
    """

    def __init__(self, count: int, same_as: Sequence[int] | None = None) -> None:
        if count < 0:
            raise ValueError(f"count must be >= 0, got {count}")
        self._same_as = list(range(count)) if same_as is None else list(same_as)
        if len(self._same_as) != count or any(
            not 0 <= first <= item or self._same_as[first] != first for item, first in enumerate(self._same_as)
        ):
            raise ValueError(f"same_as must name the first twin of each of {count} items, got {self._same_as}")
        self._cluster_of: dict[int, int] = {}
        self._waiting = [item for item, first in enumerate(self._same_as) if item == first]
        self.num_clusters = 0
        self._open_cluster()

    @property
    def done(self) -> bool:
        """No question is left."""
        return not self._waiting

    @property
    def cluster_ids(self) -> list[int]:
        """Cluster id of every item, from 0 in order of creation.

        Raises:
            ValueError: before the last round is answered.
        """
        if not self.done:
            raise ValueError("questions are left: answer every round first")
        return [self._cluster_of[first] for first in self._same_as]

    def questions(self) -> list[tuple[int, int]]:
        """This round's (leader, item) pairs, leader < item, in order of items; empty when done."""
        return [(self._leader, item) for item in self._waiting]

    def answer(self, equivalent: Sequence[bool]) -> None:
        """Give this round's answers, one a question in the same order, and go to the next round.

        Raises:
            ValueError: if their number is not that of the questions.
        """
        if len(equivalent) != len(self._waiting):
            raise ValueError(f"want {len(self._waiting)} answers, got {len(equivalent)}")
        for item, joins in zip(self._waiting, equivalent, strict=True):
            if joins:
                self._cluster_of[item] = self.num_clusters - 1
        self._waiting = [item for item, joins in zip(self._waiting, equivalent, strict=True) if not joins]
        self._open_cluster()

    def _open_cluster(self) -> None:
        if self._waiting:
            self._leader = self._waiting.pop(0)
            self._cluster_of[self._leader] = self.num_clusters
            self.num_clusters += 1


def first_occurrences(texts: Sequence[str]) -> list[int]:
    """For each text the index of the first one that equals it after strip: exact duplicates need no NLI call."""
    seen: dict[str, int] = {}
    return [seen.setdefault(text.strip(), index) for index, text in enumerate(texts)]


def equivalent(forward: Label, backward: Label, rule: EquivalenceRule) -> bool:
    """Whether two answers mean the same, by what NLI says in both directions (METHOD 3.1).

    "strict": both entail (Kuhn et al. 2023, text). "lax": neither contradicts and not both are neutral (later code of
    the same group with strict off). "non-contradiction": neither contradicts (code of the 2023 paper).

    Raises:
        ValueError: if a label or the rule is unknown.
    """
    labels = (_known(forward), _known(backward))
    if rule == "strict":
        return labels == ("entailment", "entailment")
    if rule == "lax":
        return "contradiction" not in labels and labels != ("neutral", "neutral")
    if rule == "non-contradiction":
        return "contradiction" not in labels
    raise ValueError(f"unknown rule {rule!r}: strict, lax or non-contradiction")


def forward_decides(forward: Label, rule: EquivalenceRule) -> bool:
    """True when the first direction alone rules equivalence out, so that the second need not be asked."""
    return not any(equivalent(forward, backward, rule) for backward in ("contradiction", "neutral", "entailment"))


def discrete_entropy(cluster_ids: Sequence[int]) -> float:
    """-sum_c p_c ln p_c with p_c the share of the samples in cluster c; 0 to ln n nats. A diagnostic (METHOD 3.6)."""
    _require_samples(cluster_ids)
    count = len(cluster_ids)
    return math.fsum(-size / count * math.log(size / count) for size in Counter(cluster_ids).values())


def semantic_entropy(cluster_ids: Sequence[int], mean_logprobs: Sequence[float]) -> float:
    """-sum_c q_c ln q_c, q_c = sum_{s in c} e^{l_s} / sum_s e^{l_s}; nats. A diagnostic.

    (jlko/semantic_uncertainty, Farquhar et al. 2024.) `mean_logprobs`: l_s, mean log-likelihood a token, nats.
    """
    log_masses = _log_masses(cluster_ids, mean_logprobs)
    total = _log_sum_exp(log_masses)
    return math.fsum(-math.exp(mass - total) * (mass - total) for mass in log_masses)


def kuhn_semantic_entropy(cluster_ids: Sequence[int], mean_logprobs: Sequence[float]) -> float:
    """-(1/|C|) sum_c ln sum_{s in c} e^{l_s}; nats. A diagnostic.

    (Kuhn et al. 2023; METHOD 3.6. The code of that paper takes 5 from every cluster's log-likelihood, which adds 5.)
    """
    log_masses = _log_masses(cluster_ids, mean_logprobs)
    return -math.fsum(log_masses) / len(log_masses)


def _log_masses(cluster_ids: Sequence[int], mean_logprobs: Sequence[float]) -> list[float]:
    """ln sum_{s in c} e^{l_s} of every cluster c."""
    _require_samples(cluster_ids)
    if len(cluster_ids) != len(mean_logprobs) or not all(map(math.isfinite, mean_logprobs)):
        raise ValueError(f"want {len(cluster_ids)} finite log-likelihoods, got {list(mean_logprobs)}")
    members: dict[int, list[float]] = {}
    for cluster_id, logprob in zip(cluster_ids, mean_logprobs, strict=True):
        members.setdefault(cluster_id, []).append(logprob)
    return [_log_sum_exp(logprobs) for logprobs in members.values()]


def _log_sum_exp(values: Sequence[float]) -> float:
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))


def _known(label: str) -> str:
    if label not in ("contradiction", "neutral", "entailment"):
        raise ValueError(f"unknown NLI label {label!r}: contradiction, neutral or entailment")
    return label


def _require_samples(cluster_ids: Sequence[int]) -> None:
    if not cluster_ids:
        raise ValueError("no samples: an entropy needs at least one")
