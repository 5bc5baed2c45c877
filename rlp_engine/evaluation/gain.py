"""How far a policy's scores are above the SFT policy's, and what of it is correctness, what style."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlp_engine.errors import DataError
from rlp_engine.evaluation.winrate import mean_and_standard_error


@dataclass(frozen=True)
class Gain:
    """Mean differences to another policy on the same instructions, in units of the judge's score."""

    score: float
    standard_error: float | None  # of `score`, paired over instructions; None for a single one
    correct: float | None  # the share of `score` that is correctness, where the judge is the sandbox's gold reward
    style: float | None  # the rest: score = correct + style


def gain(
    scores: Sequence[float],
    base_scores: Sequence[float],
    parts: Sequence[Mapping[str, float]] = (),
    base_parts: Sequence[Mapping[str, float]] = (),
) -> Gain:
    """Gain over a base policy; entry i of every argument is instruction i.

    Args:
        parts, base_parts: `gold_parts` of each answer, with "correct" and "style"; empty for a judge that has none.

    Raises:
        DataError: if the lengths differ.
    """
    if len(scores) != len(base_scores) or len(parts) != len(base_parts):
        raise DataError("two policies were scored on different instructions")
    score, error = mean_and_standard_error([a - b for a, b in zip(scores, base_scores, strict=True)])
    gained = {
        name: statistics.fmean(one[name] - base[name] for one, base in zip(parts, base_parts, strict=True))
        for name in (("correct", "style") if parts else ())
    }
    return Gain(score, None if math.isnan(error) else error, gained.get("correct"), gained.get("style"))
