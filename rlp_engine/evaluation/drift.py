"""How far a policy's answers have moved from the pairs that its reward model was trained on.

The reward model's hidden states v of both sides are compared by two numbers that see different things: the
Frechet distance (means and covariances) and how well a linear classifier tells the sides apart.
Shapes: N answers (M on the other side), D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rlp_engine import randomness

FOLDS = 5


@dataclass(frozen=True)
class Answers:
    """One side: what is known of N answers. `prompts` names the prompt of each, so that the classifier
    is never tested on a prompt it was trained on."""

    rewards: Sequence[float]
    tokens: Sequence[int]
    characters: Sequence[int]
    vectors_ND: np.ndarray
    prompts: Sequence[Hashable]


def frechet_distance(a_ND: np.ndarray, b_MD: np.ndarray) -> float:
    """Squared Frechet (2-Wasserstein) distance of the two Gaussians with the sides' means and covariances.

        |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^{1/2})     (Dowson and Landau 1982; Heusel et al. 2017, eq. 6)

    tr (S_a S_b)^{1/2} is the sum of the singular values of R_a R_b^T, where S = R^T R: no matrix square root,
    no complex numbers, exact also when N < D. Unit: reward-model hidden units, squared. Few answers bias
    it upwards, so compare numbers of equal N only.
    """
    a, b = np.asarray(a_ND, np.float64), np.asarray(b_MD, np.float64)
    assert (a.ndim, b.ndim) == (2, 2), (a.shape, b.shape)
    assert a.shape[1] == b.shape[1], (a.shape, b.shape)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    overlap = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    shift = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return max(0.0, float(shift + np.sum(root_a**2) + np.sum(root_b**2) - 2 * overlap))


def _covariance_root(x_ND: np.ndarray) -> np.ndarray:
    """R with R^T R = the sample covariance (N - 1)."""
    centred = (x_ND - x_ND.mean(axis=0)) / math.sqrt(max(1, len(x_ND) - 1))
    return np.linalg.qr(centred, mode="r")


def classifier_auc(
    a_ND: np.ndarray,
    b_MD: np.ndarray,
    *,
    seed: int,
    groups_a: Sequence[Hashable] | None = None,
    groups_b: Sequence[Hashable] | None = None,
) -> float:
    """Cross-validated area under the ROC curve of a logistic regression that tells `a` from `b`.

    0.5 = cannot be told apart, 1 = no overlap. Features are standardised on the training folds. The groups
    (prompts) stay whole within a fold: ten samples of one prompt in both training and test folds would make
    any two sides look different. A group on both sides is kept together too.

    Returns:
        Mean over the folds that hold both sides; NaN when a side has fewer groups than two.
    """
    x = np.concatenate([np.asarray(a_ND, np.float64), np.asarray(b_MD, np.float64)])
    is_a = np.r_[np.ones(len(a_ND), int), np.zeros(len(b_MD), int)]
    names_a = [("a", i) for i in range(len(a_ND))] if groups_a is None else list(groups_a)
    names_b = [("b", i) for i in range(len(b_MD))] if groups_b is None else list(groups_b)
    folds = min(FOLDS, len(set(names_a)), len(set(names_b)))
    if folds < 2:
        return math.nan
    numbers: dict[Hashable, int] = {}
    groups = np.array([numbers.setdefault(name, len(numbers)) for name in names_a + names_b])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    areas = []
    for train, test in splitter.split(x, is_a, groups):
        if len(set(is_a[train])) < 2 or len(set(is_a[test])) < 2:
            continue  # one large group can hold a whole side of a fold
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(x[train], is_a[train])
        areas.append(roc_auc_score(is_a[test], model.decision_function(x[test])))
    return float(np.mean(areas)) if areas else math.nan


def describe(side: Answers, base: Answers | None, *, limit: int, seed: int) -> dict[str, float | None]:
    """One entry of drift.json: rewards and lengths of a side, and its distance from `base`.

    Args:
        base: the answers of the preference pairs; None describes the base itself (distances are null).
        limit: most vectors a side that the two distances use, drawn with `seed`. Both sides use the same
            number, since the Frechet distance depends on it.
    """
    row: dict[str, float | None] = {
        "reward_mean": float(np.mean(side.rewards)),
        "reward_std": float(np.std(side.rewards)),
        "tokens_mean": float(np.mean(side.tokens)),
        "characters_mean": float(np.mean(side.characters)),
        "frechet": None,
        "classifier_auc": None,
    }
    if base is not None:
        count = min(limit, len(side.vectors_ND), len(base.vectors_ND))
        mine = np.sort(randomness.permutation(len(side.vectors_ND), seed, "drift", "side")[:count])
        theirs = np.sort(randomness.permutation(len(base.vectors_ND), seed, "drift", "base")[:count])
        a, b = side.vectors_ND[mine], base.vectors_ND[theirs]
        row["frechet"] = frechet_distance(a, b)
        area = classifier_auc(
            a, b, seed=seed, groups_a=[side.prompts[i] for i in mine], groups_b=[base.prompts[i] for i in theirs]
        )
        row["classifier_auc"] = None if math.isnan(area) else area
    return row
