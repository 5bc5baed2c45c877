"""How well a reward model orders a policy's own answers, or a method its synthetic pairs, by their true scores."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from rlp_engine.errors import DataError
from rlp_engine.evaluation.winrate import DRAW, mean_and_standard_error


@dataclass(frozen=True)
class RewardAccuracy:
    """Share of pairs in the right order, 0 to 1. NaN when there is no pair (n = 0)."""

    accuracy: float
    standard_error: float  # over prompts: pairs of one prompt share answers and are not independent
    n: int  # pairs


def reward_accuracy(
    rewards: Sequence[Sequence[float]],
    true_scores: Sequence[Sequence[float]],
    *,
    must_differ: Sequence[Sequence[Hashable]] | None = None,
) -> RewardAccuracy:
    """Pairwise accuracy of a reward model within prompts.

    All pairs of answers to one prompt whose true scores differ; equal rewards count one half.

    Args:
        rewards: one list a prompt: the reward of each of its answers.
        true_scores: the same shape: gold scores, or a judge's.
        must_differ: the same shape: keep only pairs that differ in this too (correctness, say, so that
            style alone is not rewarded; SANDBOX.md, last column).

    Raises:
        DataError: if the shapes differ.
    """
    right = np.zeros(len(rewards))
    pairs = np.zeros(len(rewards))
    for index, (r, s) in enumerate(zip(rewards, true_scores, strict=True)):
        labels = None if must_differ is None else must_differ[index]
        if len(r) != len(s) or (labels is not None and len(labels) != len(r)):
            raise DataError("rewards and true scores differ in length", where=f"prompt {index + 1}")
        right[index], pairs[index] = _prompt_pairs(np.asarray(r, float), np.asarray(s, float), labels)
    return _over_prompts(right, pairs)


def compared_accuracy(
    rewards: Sequence[Sequence[float]], compared: Sequence[Sequence[tuple[int, int, float | None]]]
) -> RewardAccuracy:
    """Pairwise accuracy of a reward model within prompts, where the judge compares answers and scores none.

    Args:
        rewards: one list a prompt: the reward of each of its answers.
        compared: one list a prompt: (i, j, preference) of each pair that was judged, in [1, 2] and 2 = answer j is
            better. Draws (1.5) do not count, nor does None: no judgement could be read. Equal rewards count one half.

    Raises:
        DataError: if the lengths differ.
    """
    if len(rewards) != len(compared):
        raise DataError("rewards and judgements differ in length", found=f"{len(rewards)} and {len(compared)} prompts")
    right = np.zeros(len(rewards))
    pairs = np.zeros(len(rewards))
    for index, (r, judged) in enumerate(zip(rewards, compared, strict=True)):
        for i, j, preference in judged:
            if preference is not None and preference != DRAW:
                pairs[index] += 1
                right[index] += (1 + np.sign(preference - DRAW) * np.sign(r[j] - r[i])) / 2
    return _over_prompts(right, pairs)


def confirmed_share(preferences: Sequence[float | None]) -> RewardAccuracy:
    """Share of preference pairs, one a prompt, whose order a judge confirms; a draw counts one half.

    The accuracy column of the paper's Table 5 (METHOD 3.5). The standard error is std / sqrt(n), n - 1 in the variance.

    Args:
        preferences: the judge's, of (chosen, rejected): below 1.5 = it confirms the pair. None is left out of n.
    """
    kept = np.array([value for value in preferences if value is not None], dtype=float)
    if kept.size == 0:
        return RewardAccuracy(math.nan, math.nan, 0)
    accuracy, standard_error = mean_and_standard_error((1 + np.sign(DRAW - kept)) / 2)
    return RewardAccuracy(accuracy, standard_error, int(kept.size))


def _over_prompts(right: np.ndarray, pairs: np.ndarray) -> RewardAccuracy:
    """From each prompt's pairs in the right order and its pairs."""
    total = pairs.sum()
    if total == 0:
        return RewardAccuracy(math.nan, math.nan, 0)
    accuracy = right.sum() / total
    used = int(np.sum(pairs > 0))
    spread = np.sum((right - accuracy * pairs) ** 2)  # linearised ratio estimator, prompts as clusters
    standard_error = math.sqrt(used / (used - 1) * spread) / total if used > 1 else math.nan
    return RewardAccuracy(float(accuracy), standard_error, int(total))


def _prompt_pairs(rewards: np.ndarray, scores: np.ndarray, labels: Sequence[Hashable] | None) -> tuple[float, int]:
    """(pairs in the right order, pairs) among the answers to one prompt."""
    first, second = np.triu_indices(len(rewards), k=1)
    sign = np.sign(scores[first] - scores[second])
    counts = sign != 0
    if labels is not None:
        counts &= np.array([labels[i] != labels[j] for i, j in zip(first, second, strict=True)], dtype=bool)
    agreement = sign * np.sign(rewards[first] - rewards[second])  # 1 right, 0 reward tie, -1 wrong
    return float(np.sum((agreement[counts] + 1) / 2)), int(counts.sum())
