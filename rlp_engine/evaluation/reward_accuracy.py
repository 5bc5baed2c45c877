"""How well a reward model orders a policy's own answers, or a method its synthetic pairs, by their true scores."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from rlp_engine.errors import DataError
from rlp_engine.evaluation.winrate import mean_and_standard_error


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
    total = pairs.sum()
    if total == 0:
        return RewardAccuracy(math.nan, math.nan, 0)
    accuracy = right.sum() / total
    used = int(np.sum(pairs > 0))
    spread = np.sum((right - accuracy * pairs) ** 2)  # linearised ratio estimator, prompts as clusters
    standard_error = math.sqrt(used / (used - 1) * spread) / total if used > 1 else math.nan
    return RewardAccuracy(float(accuracy), standard_error, int(total))


def pair_accuracy(chosen_scores: Sequence[float], rejected_scores: Sequence[float]) -> RewardAccuracy:
    """Share of preference pairs, one a prompt, whose order the true scores confirm; a draw counts one half.

    The accuracy column of the paper's Table 5 (METHOD 3.5). The standard error is std / sqrt(n), n - 1 in the variance.

    Raises:
        DataError: if the lengths differ, or a score is NaN, which would compare as a silent error.
    """
    chosen, rejected = np.asarray(chosen_scores, float), np.asarray(rejected_scores, float)
    if chosen.shape != rejected.shape:
        raise DataError("chosen and rejected scores differ in length", found=f"{chosen.size} and {rejected.size}")
    if np.isnan(chosen).any() or np.isnan(rejected).any():
        raise DataError("a judge gave no number of a synthetic pair")
    if chosen.size == 0:
        return RewardAccuracy(math.nan, math.nan, 0)
    accuracy, standard_error = mean_and_standard_error((1 + np.sign(chosen - rejected)) / 2)
    return RewardAccuracy(accuracy, standard_error, int(chosen.size))


def _prompt_pairs(rewards: np.ndarray, scores: np.ndarray, labels: Sequence[Hashable] | None) -> tuple[float, int]:
    """(pairs in the right order, pairs) among the answers to one prompt."""
    first, second = np.triu_indices(len(rewards), k=1)
    sign = np.sign(scores[first] - scores[second])
    counts = sign != 0
    if labels is not None:
        counts &= np.array([labels[i] != labels[j] for i, j in zip(first, second, strict=True)], dtype=bool)
    agreement = sign * np.sign(rewards[first] - rewards[second])  # 1 right, 0 reward tie, -1 wrong
    return float(np.sum((agreement[counts] + 1) / 2)), int(counts.sum())
