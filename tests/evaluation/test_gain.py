from __future__ import annotations

import math

import pytest

from rlp_engine.errors import DataError
from rlp_engine.evaluation.gain import Gain, gain


def parts(*rows: tuple[float, float]) -> list[dict[str, float]]:
    return [{"gold": correct + style, "correct": correct, "style": style} for correct, style in rows]


def test_a_gain_is_split_into_correctness_and_style() -> None:
    # score: +2.2, -1.0, +0.6 -> mean 0.6; correctness: +1.6, -1.6, 0 -> 0; style: +0.6, +0.6, +0.6 -> 0.6
    sft, other = parts((0.0, 0.0), (1.6, 0.0), (1.6, 0.0)), parts((1.6, 0.6), (0.0, 0.6), (1.6, 0.6))
    got = gain([2.2, 0.6, 2.2], [0.0, 1.6, 1.6], other, sft)
    assert (got.score, got.correct, got.style) == pytest.approx((0.6, 0.0, 0.6))
    assert got.score == pytest.approx(got.correct + got.style)
    assert got.standard_error == pytest.approx(1.6 / math.sqrt(3))  # differences from 0.6: 1.6, -1.6, 0


def test_a_judge_without_parts_gives_the_score_alone() -> None:
    assert gain([1.0], [0.5]) == Gain(score=0.5, standard_error=None, correct=None, style=None)


@pytest.mark.parametrize("words", [([1.0], [1.0, 2.0]), ([1.0], [1.0], parts((0, 0)), [])])
def test_policies_on_different_instructions_are_refused(words) -> None:
    with pytest.raises(DataError, match="different instructions"):
        gain(*words)
