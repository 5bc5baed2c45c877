"""Rewards without an encoder: the longer output, the reference model's output, a linear bag of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.real_preferences.data import JudgedPair, Texts

NUM_FEATURES = 2**16


def fixed_rules(pairs: Sequence[JudgedPair]) -> dict[str, np.ndarray]:
    """Margins of "the longer one" and of "the reference model's"."""
    return {
        "length": np.array([pair.log_length_ratio for pair in pairs]),
        "reference": np.array([1.0 if pair.reference_chosen else -1.0 for pair in pairs]),
    }


class BagOfWords:
    """A Bradley-Terry model that is linear in ln(1 + count) of hashed words, trained on the same D."""

    def __init__(self, texts: Texts, pairs: Sequence[JudgedPair]) -> None:
        self._texts = texts
        sign_N = np.where(np.arange(len(pairs)) % 2 == 0, 1.0, -1.0)  # logistic regression wants both labels
        signed_ND = _differences(texts, pairs).multiply(sign_N[:, None]).tocsr()
        self._model = LogisticRegression(C=0.01, fit_intercept=False, max_iter=1000).fit(signed_ND, sign_N)

    def margins(self, pairs: Sequence[JudgedPair]) -> np.ndarray:
        return np.asarray(_differences(self._texts, pairs) @ self._model.coef_[0])


def _differences(texts: Texts, pairs: Sequence[JudgedPair]) -> csr_matrix:
    vectorizer = HashingVectorizer(n_features=NUM_FEATURES, alternate_sign=False, norm=None)
    sides = [
        vectorizer.transform([texts.items[text][1] for text in side])
        for side in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    ]
    for side in sides:
        side.data = np.log1p(side.data)
    return (sides[0] - sides[1]).tocsr()
