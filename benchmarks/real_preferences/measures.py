"""What is measured on a reward model, and the bootstrap over instructions.

Length-balanced accuracy, the primary measure, is the mean of the accuracy on pairs whose chosen output is the longer
one and on pairs where it is the shorter one: choosing by length alone, either way, gets 50%.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.real_preferences.data import JudgedPair, Texts, UnlabelledSet
from rlp_engine.methods.multi_view import choose_views, within_share
from rlp_engine.randomness import generator, uniforms

BOOTSTRAP_DRAWS = 2000
LENGTH_MATCHED = 0.2  # |ln of the ratio of characters|


def accuracies(margins_N: np.ndarray, pairs: Sequence[JudgedPair]) -> dict[str, float]:
    """Accuracy on all pairs and by length; a tie counts 1/2. `margins_N`: reward of chosen minus of rejected."""
    right_N = correct(margins_N)
    log_ratio_N = np.array([pair.log_length_ratio for pair in pairs])
    reference_N = np.array([pair.reference_chosen for pair in pairs])
    found = {
        "accuracy": _mean(right_N),
        "chosen_longer": _mean(right_N[log_ratio_N > 0]),
        "chosen_shorter": _mean(right_N[log_ratio_N < 0]),
        "length_matched": _mean(right_N[np.abs(log_ratio_N) < LENGTH_MATCHED]),
        "reference_won": _mean(right_N[reference_N]),
        "reference_lost": _mean(right_N[~reference_N]),
        "margin_odds": margin_coefficient(margins_N, log_ratio_N),
    }
    found["length_balanced"] = (found["chosen_longer"] + found["chosen_shorter"]) / 2
    return {name: float(value) for name, value in found.items()}


def correct(margins_N: np.ndarray) -> np.ndarray:
    return (margins_N > 0) + 0.5 * (margins_N == 0)


def margin_coefficient(margins_N: np.ndarray, log_ratio_N: np.ndarray) -> float:
    """Log-odds that one standard deviation of reward margin adds at equal length.

    Logistic regression without intercept of "this one was chosen" on the margin (divided by its root mean square) and
    the log ratio of lengths, by Newton's method; every pair is read as chosen minus rejected, so all labels are 1.
    """
    scale = np.sqrt(_mean(margins_N**2))
    if not scale > 0:
        return 0.0 if len(margins_N) else float("nan")
    features_ND = np.stack([margins_N / scale, log_ratio_N], axis=1)
    weights_D = np.zeros(2)
    for _ in range(50):
        miss_N = 1 / (1 + np.exp(features_ND @ weights_D))
        hessian_DD = (features_ND * (miss_N * (1 - miss_N))[:, None]).T @ features_ND + 1e-6 * np.eye(2)
        step_D = np.linalg.solve(hessian_DD, features_ND.T @ miss_N - 1e-6 * weights_D)
        weights_D += step_D
        if np.abs(step_D).max() < 1e-9:
            break
    return float(weights_D[0])


def on_output_sets(
    rows: Sequence[UnlabelledSet], texts: Texts, rewards: dict[int, float], v_of: dict[int, np.ndarray]
) -> dict[str, float]:
    """Within instructions: correlation of reward with ln characters, and the shares of variance of v and of reward.

    The shares come from one pair of outputs an instruction, the same for every model.
    """
    centred = []
    for row in rows:
        both_N2 = np.array([[rewards[text], np.log(max(1, len(texts.items[text][1])))] for text in row.texts])
        centred.append(both_N2 - both_N2.mean(0))
    reward_N, length_N = np.concatenate(centred).T
    draws = uniforms(len(rows), "real-preferences", "within-share")
    picked = [(row, choose_views(row.texts, float(draw))) for row, draw in zip(rows, draws, strict=True)]
    views = [[row.texts[pair[view]] for row, pair in picked if pair is not None] for view in (0, 1)]
    first_BD, second_BD = (torch.from_numpy(np.stack([v_of[text] for text in side])) for side in views)
    first_B1, second_B1 = (torch.tensor([[rewards[text]] for text in side]) for side in views)
    return {
        "reward_length_correlation": float(np.corrcoef(reward_N, length_N)[0, 1]),
        "v_within_share": float(within_share(first_BD, second_BD)),
        "reward_within_share": float(within_share(first_B1, second_B1)),
        "reward_within_std": float(reward_N.std()),
    }


class Bootstrap:
    """Resamples groups of instructions: weights (draws, pairs), the same for every arm and seed."""

    def __init__(self, num_groups: int, draws: int = BOOTSTRAP_DRAWS) -> None:
        counts = generator("real-preferences", "bootstrap").multinomial(
            num_groups, np.full(num_groups, 1 / num_groups), size=draws
        )
        self._counts_RG = counts.astype(np.float64)

    def length_balanced(
        self, right_N: np.ndarray, log_ratio_N: np.ndarray, groups_N: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """(length-balanced mean of `right_N`, the same in every resample)."""
        sides = [log_ratio_N > 0, log_ratio_N < 0]
        point = sum(_mean(right_N[side]) for side in sides) / 2
        drawn_R = np.zeros(len(self._counts_RG))
        for side in sides:
            weight_RN = self._counts_RG[:, groups_N[side]]
            drawn_R += weight_RN @ right_N[side] / np.maximum(weight_RN.sum(1), 1) / 2
        return point, drawn_R


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
