"""What a reward model makes of labelled pairs: accuracy, calibration, length, and whose answers it prefers.

Shapes: P pairs, A answers (each text of a prompt once). Rewards are in reward-model units (unbounded).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from rlp_engine.data.records import PreferencePair
from rlp_engine.errors import DataError

BINS = 10  # of the reliability table, each 0.05 wide: a confidence in one's own choice is 0.5 to 1


@dataclass(frozen=True)
class Scored:
    """A labelled pair with a reward model's two rewards."""

    prompt: str
    subset: str
    chosen: str
    rejected: str
    chosen_generator: str
    rejected_generator: str
    chosen_reward: float
    rejected_reward: float

    @property
    def margin(self) -> float:
        return self.chosen_reward - self.rejected_reward

    @property
    def right(self) -> float:
        """1 when the reward agrees with the label, 0 when not, 1/2 for equal rewards."""
        return (1 + float(np.sign(self.margin))) / 2


def scored(pair: PreferencePair, chosen_reward: float, rejected_reward: float) -> Scored:
    """
    Raises:
        DataError: a reward is not finite.
    """
    if not (math.isfinite(chosen_reward) and math.isfinite(rejected_reward)):
        raise DataError(
            "the reward model gave no number",
            where=f"prompt {pair.prompt.prompt_id}: {pair.prompt.instruction[:40]!r}",
            found=f"{chosen_reward} and {rejected_reward}",
            mend="look for NaN and for huge numbers among its weights",
        )
    meta = pair.meta
    chosen_generator, rejected_generator = meta.get("chosen_generator", ""), meta.get("rejected_generator", "")
    if "generator_1" in meta and "generator_2" in meta and "preference" in meta:
        names = meta["generator_1"], meta["generator_2"]
        chosen_generator, rejected_generator = names if 0 < meta["preference"] < 1.5 else names[::-1]
    return Scored(
        prompt=f"{pair.prompt.instruction}\x00{pair.prompt.input}",
        subset=str(pair.prompt.meta.get("subset", "")),
        chosen=pair.chosen,
        rejected=pair.rejected,
        chosen_generator=str(chosen_generator),
        rejected_generator=str(rejected_generator),
        chosen_reward=chosen_reward,
        rejected_reward=rejected_reward,
    )


def report(pairs: Sequence[Scored]) -> dict[str, Any]:
    """All that is said of a reward model on a file of pairs; shares are 0 to 1, null where there is nothing to count.

    Returns:
        pairs, prompts        how many
        accuracy              {accuracy, standard_error, n} of all pairs; see `accuracy`
        loss                  mean of -log sigmoid(margin), nats; ln 2 = 0.693 for a model that says nothing
        subsets[]             subset and its accuracy; empty when the rows name fewer than two
        lengths               longer_chosen, shorter_chosen: accuracy where the label chose the longer (shorter) answer;
                              balanced: the mean of the two, 1/2 for a model that goes by length alone
        calibration           see `calibration`
        length_correlation    see `length_correlation`
        generators[]          see `generators`; empty where the file names none
    """
    if not pairs:
        raise DataError("there is no pair to score")
    longer = [pair for pair in pairs if len(pair.chosen) > len(pair.rejected)]
    shorter = [pair for pair in pairs if len(pair.chosen) < len(pair.rejected)]
    lengths = {"longer_chosen": accuracy(longer), "shorter_chosen": accuracy(shorter)}
    both = [entry["accuracy"] for entry in lengths.values()]
    subsets = list(dict.fromkeys(pair.subset for pair in pairs))
    return {
        "pairs": len(pairs),
        "prompts": len({pair.prompt for pair in pairs}),
        "accuracy": accuracy(pairs),
        "loss": statistics.fmean(float(np.logaddexp(0.0, -pair.margin)) for pair in pairs),
        "subsets": [{"subset": name, **accuracy([p for p in pairs if p.subset == name])} for name in subsets]
        if len(subsets) > 1
        else [],
        "lengths": {**lengths, "balanced": None if None in both else statistics.fmean(both)},
        "calibration": calibration([pair.margin for pair in pairs]),
        "length_correlation": length_correlation(pairs),
        "generators": generators(pairs),
    }


def accuracy(pairs: Sequence[Scored]) -> dict[str, Any]:
    """Share of the pairs that the rewards order as the label does; equal rewards count one half.

    The standard error is over prompts, whose pairs share answers: with R_g right among the N_g pairs of prompt g of G,
    sqrt(G / (G - 1) sum_g (R_g - accuracy N_g)^2) / N, which is std / sqrt(N) when every prompt has one pair.
    """
    if not pairs:
        return {"accuracy": None, "standard_error": None, "n": 0}
    share = statistics.fmean(pair.right for pair in pairs)
    groups: dict[str, float] = {}
    for pair in pairs:
        groups[pair.prompt] = groups.get(pair.prompt, 0.0) + pair.right - share
    count = len(groups)
    spread = sum(value**2 for value in groups.values())
    error = math.sqrt(count / (count - 1) * spread) / len(pairs) if count > 1 else None
    return {"accuracy": share, "standard_error": error, "n": len(pairs)}


def calibration(margins: Sequence[float]) -> dict[str, Any]:
    """Reliability of sigmoid(margin) as a probability (Guo et al. 2017, arXiv:1706.04599, section 2).

    A pair's confidence is that of the model in its own choice, c = sigmoid(|r_chosen - r_rejected|), and its choice is
    right when r_chosen > r_rejected (equal rewards: half right, c = 1/2). The ten bins [0.5, 0.55), ... [0.95, 1] hold
    n_b pairs of mean confidence c_b, of which the share a_b is right:

        expected calibration error = sum_b n_b / P |a_b - c_b|

    Taking both orders of every pair and bins over [0, 1] gives the same number: the lower half mirrors the upper.

    Returns:
        expected_calibration_error; mean_confidence; bins[]: low, high, n, confidence, accuracy (null when n = 0).
    """
    margin_P = np.asarray(margins, np.float64)
    confidence_P = 1 / (1 + np.exp(-np.abs(margin_P)))
    right_P = (1 + np.sign(margin_P)) / 2
    bin_P = np.minimum(((confidence_P - 0.5) / 0.5 * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for index in range(BINS):
        inside = bin_P == index
        count = int(inside.sum())
        c, a = (float(confidence_P[inside].mean()), float(right_P[inside].mean())) if count else (None, None)
        error += 0.0 if c is None or a is None else count / len(margin_P) * abs(a - c)
        low, high = 0.5 + 0.5 * index / BINS, 0.5 + 0.5 * (index + 1) / BINS
        bins.append({"low": round(low, 2), "high": round(high, 2), "n": count, "confidence": c, "accuracy": a})
    return {"expected_calibration_error": error, "mean_confidence": float(confidence_P.mean()), "bins": bins}


def length_correlation(pairs: Sequence[Scored]) -> dict[str, Any]:
    """Correlation of an answer's reward with its length in characters, over all answers and within prompts.

    Every text of a prompt counts once, however many pairs it is in.

    Returns:
        pearson, spearman     over all answers: also what prompts that call for long answers do to rewards
        pearson_within        of both with the mean of their prompt taken off (prompts of one answer drop out)
        spearman_within       mean over prompts of the rank correlation among the prompt's answers; for prompts of two
                              answers the share in which the longer is preferred, less the share in which the shorter is
        longer_preferred      share of the pairs of unequal length whose longer answer has the higher reward (tie: 1/2)
        answers               how many
    """
    rewards: dict[str, dict[str, float]] = {}
    for pair in pairs:
        own = rewards.setdefault(pair.prompt, {})
        own[pair.chosen], own[pair.rejected] = pair.chosen_reward, pair.rejected_reward
    groups = [
        (np.array([len(text) for text in own], float), np.array(list(own.values()), float)) for own in rewards.values()
    ]
    lengths_A, rewards_A = (np.concatenate(side) for side in zip(*groups, strict=True))
    centred = [(x - x.mean(), y - y.mean()) for x, y in groups if len(x) > 1]
    within = [r for x, y in groups if len(x) > 1 and (r := pearson(rankdata(x), rankdata(y))) is not None]
    unequal = [
        (1 + np.sign(pair.margin) * np.sign(difference)) / 2
        for pair in pairs
        if (difference := len(pair.chosen) - len(pair.rejected))
    ]
    return {
        "pearson": pearson(lengths_A, rewards_A),
        "spearman": pearson(rankdata(lengths_A), rankdata(rewards_A)),
        "pearson_within": pearson(*(np.concatenate(side) for side in zip(*centred, strict=True))) if centred else None,
        "spearman_within": statistics.fmean(within) if within else None,
        "longer_preferred": float(np.mean(unequal)) if unequal else None,
        "answers": len(lengths_A),
    }


def pearson(x_A: np.ndarray, y_A: np.ndarray) -> float | None:
    """Pearson's correlation; None when there are fewer than two values or a side does not vary."""
    if len(x_A) < 2 or np.ptp(x_A) == 0 or np.ptp(y_A) == 0:
        return None
    return float(np.corrcoef(x_A, y_A)[0, 1])


def generators(pairs: Sequence[Scored]) -> list[dict[str, Any]]:
    """Of each generator: how often the reward model, and how often the label, prefers its answer to the other one.

    Where a generator was built to win over the annotator, the label's share says how well that works there, and the
    model's share how well it works here; accuracy against such labels would praise a model that is fooled alike.
    """
    found = []
    for name in dict.fromkeys(g for pair in pairs for g in (pair.chosen_generator, pair.rejected_generator) if g):
        own = [pair for pair in pairs if name in (pair.chosen_generator, pair.rejected_generator)]
        own = [pair for pair in own if pair.chosen_generator != pair.rejected_generator]
        if own:
            is_chosen = [pair.chosen_generator == name for pair in own]
            by_model = [pair.right if chosen else 1 - pair.right for pair, chosen in zip(own, is_chosen, strict=True)]
            found.append(
                {
                    "generator": name,
                    "preferred_by_model": statistics.fmean(by_model),
                    "preferred_by_label": statistics.fmean(is_chosen),
                    **accuracy(own),
                }
            )
    return found
