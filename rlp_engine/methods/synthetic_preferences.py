"""SPG: from clusters of a prompt's n answers to one preferred and one rejected answer (METHOD 3.4, 3.5).

The largest cluster is what the policy is sure of. Its best-rewarded member is preferred to an answer drawn from
outside it, when the cluster holds at least the share gamma of the answers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Reason = Literal["accepted", "low-confidence", "one-cluster", "equal", "unparsed"]
CONFIDENCE = "confidence "  # before a confidence to two places: the name of its count
CONFIDENT = 0.75  # a preference of at least this for one of the two answers


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one prompt. `chosen` and `rejected` are None unless it was accepted.

    `confidence` is the largest cluster's share of all n answers; None where answers were not clustered.
    `chosen_reward` and `rejected_reward` are the stage-2 rewards, where there are any.
    """

    reason: Reason
    confidence: float | None = None
    num_clusters: int | None = None
    largest_cluster: int | None = None  # its id
    chosen: int | None = None  # index among the n answers
    rejected: int | None = None
    chosen_reward: float | None = None
    rejected_reward: float | None = None

    @property
    def accepted(self) -> bool:
        return self.reason == "accepted"


def choose_pair(cluster_ids: Sequence[int], rewards: Sequence[float], gamma: float, draw: float) -> Decision:
    """SPG's pair of one prompt; gamma = 0 is the ablation Select-All.

        c = |g| / n of the largest cluster g; accept if c >= gamma and there is a second cluster;
        y_w = argmax over g of r(x, y); y_l uniform over all answers outside g
        (Lang et al. 2024, arXiv:2403.19279; METHOD 3.4)

    Args:
        cluster_ids: cluster of each answer, in sampling order.
        rewards: stage-2 reward of each answer. y_l may have the higher one; the pair is kept all the same.
        gamma: least confidence, inclusive: 5 of 10 pass at 0.5.
        draw: uniform in [0, 1); decides y_l.

    Returns:
        A `Decision`. Ties, by rule: of several largest clusters the one that holds the highest reward, then the lower
        id; of several best members the lowest index.

    Raises:
        ValueError: if there are no answers, lengths differ, a reward is not finite, or gamma or draw is out of range.
    """
    count = len(cluster_ids)
    if count == 0 or len(rewards) != count:
        raise ValueError(f"want one cluster id and one reward an answer, got {count} and {len(rewards)}")
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}")
    _require_finite(rewards)
    _require_draw(draw)
    sizes = Counter(cluster_ids)
    best_reward = {g: max(r for r, c in zip(rewards, cluster_ids, strict=True) if c == g) for g in sizes}
    largest = min(sizes, key=lambda g: (-sizes[g], -best_reward[g], g))
    confidence = sizes[largest] / count
    facts = {"confidence": confidence, "num_clusters": len(sizes), "largest_cluster": largest}
    if len(sizes) == 1:
        return Decision("one-cluster", **facts)
    if confidence < gamma:
        return Decision("low-confidence", **facts)
    inside = [index for index, g in enumerate(cluster_ids) if g == largest]
    outside = [index for index, g in enumerate(cluster_ids) if g != largest]
    chosen = max(inside, key=lambda index: (rewards[index], -index))
    rejected = outside[int(draw * len(outside))]
    return _accepted(chosen, rejected, rewards, **facts)


def choose_reward_pair(rewards: Sequence[float], draw: float) -> Decision:
    """Ablation "Reward": two of the n answers, uniformly; the higher reward is preferred, equal ones give no pair.

    Raises:
        ValueError: if there are fewer than two answers, a reward is not finite, or draw is outside [0, 1).
    """
    first, second = draw_two(len(rewards), draw)
    _require_finite(rewards)
    if rewards[first] == rewards[second]:
        return Decision("equal")
    chosen, rejected = (first, second) if rewards[first] > rewards[second] else (second, first)
    return _accepted(chosen, rejected, rewards)


def rlaif_preference(first_order: tuple[float, float], second_order: tuple[float, float]) -> float:
    """Probability that answer a is better than b, by a policy that judges both orders (Lee et al. 2023; METHOD 3.5).

    Averaging the two orders takes the position bias away: a judge who always says "1" gives 1/2.

    Args:
        first_order: log-probabilities (nats) of the tokens "1" and "2" when a is shown first.
        second_order: the same when b is shown first, so that "2" means a.

    Returns:
        In [0, 1]; 1/2 = no preference.

    Raises:
        ValueError: if in an order a number is NaN, or both have probability 0.
    """
    return (_first_of_two(*first_order) + (1.0 - _first_of_two(*second_order))) / 2.0


def choose_rlaif_pair(first: int, second: int, preference: float, rewards: Sequence[float] | None = None) -> Decision:
    """Ablation "RLAIF": the answer the policy itself prefers; 1/2 gives no pair.

    Args:
        first, second: indices of the two answers (`draw_two`).
        preference: `rlaif_preference` of the first over the second.
        rewards: of all n answers, only to be reported with the pair.

    Raises:
        ValueError: if the indices are equal, or preference is outside [0, 1].
    """
    if first == second or not 0.0 <= preference <= 1.0:
        raise ValueError(f"want two answers and a probability, got {first}, {second} and {preference}")
    if preference == 0.5:
        return Decision("equal")
    chosen, rejected = (first, second) if preference > 0.5 else (second, first)
    if rewards is not None:
        return _accepted(chosen, rejected, rewards)
    return Decision("accepted", chosen=chosen, rejected=rejected)


def count_judgements(judgements: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> Counter[str]:
    """Sums for `rlaif_rates`. Those of two parts add up to those of the whole."""
    first = [(_first_of_two(*one), _first_of_two(*other)) for one, other in judgements]
    preferences = [rlaif_preference(*orders) for orders in judgements]
    return Counter(
        asked=len(judgements),
        confident=sum(max(p, 1 - p) >= CONFIDENT for p in preferences),
        consistent=sum((one - 0.5) * (0.5 - other) > 0 for one, other in first),
        first_label=math.fsum(map(math.fsum, first)),
    )


def rlaif_rates(counts: Mapping[str, float]) -> dict[str, float | int | None]:
    """
    Returns:
        "rlaif_asked" (comparisons); "rlaif_confident_rate", those whose preference is at least 0.75 for either answer;
        "rlaif_consistent_rate", those in which both orders prefer the same answer; "rlaif_first_label", the mean
        probability of the first label over both orders, 1/2 without a position bias. A rate of nothing is None.
    """
    count = counts["asked"]
    return {
        "rlaif_asked": count,
        "rlaif_confident_rate": _rate(counts["confident"], count),
        "rlaif_consistent_rate": _rate(counts["consistent"], count),
        "rlaif_first_label": _rate(counts["first_label"], 2 * count),
    }


def draw_two(count: int, draw: float) -> tuple[int, int]:
    """Two of `count` answers, lower index first, uniform over the unordered pairs.

    Raises:
        ValueError: if there are fewer than two, or draw is outside [0, 1).
    """
    if count < 2:
        raise ValueError(f"want at least two answers, got {count}")
    _require_draw(draw)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    return pairs[int(draw * len(pairs))]


def summarise(decisions: Sequence[Decision]) -> dict[str, float | int | dict[str, int] | None]:
    """What METHOD 3.4 asks to report of all prompts: `decision_rates` of them."""
    return decision_rates(count_decisions(decisions))


def count_decisions(decisions: Iterable[Decision]) -> Counter[str]:
    """Sums for `decision_rates`. Those of two parts add up to those of the whole."""
    counts: Counter[str] = Counter()
    for decision in decisions:
        counts["prompts"] += 1
        counts[decision.reason] += 1
        if decision.confidence is not None:
            counts[f"{CONFIDENCE}{decision.confidence:.2f}"] += 1
        if decision.chosen_reward is not None and decision.rejected_reward is not None:
            counts["rewarded"] += 1
            counts["reversed"] += decision.rejected_reward > decision.chosen_reward
    return counts


def decision_rates(counts: Mapping[str, int]) -> dict[str, float | int | dict[str, int] | None]:
    """
    Returns:
        "prompts", "accepted" (counts); "acceptance_rate", "low_confidence_rate", "one_cluster_rate", "equal_rate" (of
        all prompts); "reversed_reward_rate" (of accepted pairs with rewards, those with r(y_l) > r(y_w)); and
        "confidence_histogram" (confidence to two places -> prompts). A rate of nothing is None.
    """

    def of(name: str) -> int:
        return counts.get(name, 0)

    confidences = sorted(name for name in counts if name.startswith(CONFIDENCE))
    return {
        "prompts": of("prompts"),
        "accepted": of("accepted"),
        "acceptance_rate": _rate(of("accepted"), of("prompts")),
        "low_confidence_rate": _rate(of("low-confidence"), of("prompts")),
        "one_cluster_rate": _rate(of("one-cluster"), of("prompts")),
        "equal_rate": _rate(of("equal"), of("prompts")),
        "reversed_reward_rate": _rate(of("reversed"), of("rewarded")),
        "confidence_histogram": {name.removeprefix(CONFIDENCE): counts[name] for name in confidences},
    }


def _accepted(
    chosen: int,
    rejected: int,
    rewards: Sequence[float],
    confidence: float | None = None,
    num_clusters: int | None = None,
    largest_cluster: int | None = None,
) -> Decision:
    return Decision(
        "accepted",
        confidence=confidence,
        num_clusters=num_clusters,
        largest_cluster=largest_cluster,
        chosen=chosen,
        rejected=rejected,
        chosen_reward=float(rewards[chosen]),
        rejected_reward=float(rewards[rejected]),
    )


def _first_of_two(first: float, second: float) -> float:
    """softmax([first, second])[0], finite for any log-probabilities."""
    if math.isnan(first) or math.isnan(second) or first == second == -math.inf:
        raise ValueError(f"want two log-probabilities, got {first} and {second}")
    gap = second - first
    return 1.0 / (1.0 + math.exp(gap)) if gap <= 0 else math.exp(-gap) / (1.0 + math.exp(-gap))


def _rate(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _require_draw(draw: float) -> None:
    if not 0.0 <= draw < 1.0:
        raise ValueError(f"draw must be in [0, 1), got {draw}")


def _require_finite(rewards: Sequence[float]) -> None:
    if not all(math.isfinite(reward) for reward in rewards):
        raise ValueError(f"rewards must be finite, got {list(rewards)}")
