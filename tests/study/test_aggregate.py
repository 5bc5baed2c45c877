"""Means, paired differences and their bootstrap, against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlp_engine.errors import DataError
from rlp_engine.study.aggregate import (
    difference,
    hierarchical_interval,
    mean_of,
    means,
    pairs_of,
    preference_difference,
)


def test_mean_and_standard_error_by_hand():
    # 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, variance 14 / 2 = 7, error sqrt(7 / 3)
    found = mean_of([1.0, 2.0, 6.0])
    assert (found.mean, found.seeds) == (3.0, 3)
    assert found.standard_error == pytest.approx(math.sqrt(7 / 3), rel=1e-12)


def test_one_seed_has_no_standard_error():
    assert mean_of([5.0]).standard_error is None


def test_a_number_that_some_seeds_lack_is_the_mean_of_the_others():
    found = means([{"ppo": {"kl": 1.0, "score": 2.0}}, {"ppo": {"kl": 3.0}, "best": {"score": 7.0}}])
    assert found["ppo"]["kl"].mean == 2.0
    assert (found["ppo"]["score"].mean, found["ppo"]["score"].seeds) == (2.0, 1)
    assert found["best"]["score"].seeds == 1
    assert list(found) == ["ppo", "best"]


def test_differences_are_paired_by_seed():
    # a - b = 0.5, 0.5, -0.25: mean 0.25, squares .0625 + .0625 + .25 = .375, error sqrt(.1875 / 3) = .25
    found = difference([0.5, 0.5, -0.25])
    assert (found.mean, found.seeds, found.positive) == (0.25, 3, 2)
    assert found.standard_error == pytest.approx(0.25, rel=1e-12)
    assert found.low is None


def test_preferences_give_points_of_win_rate():
    # Seed 1: (1 + 0) / 2 = 50 points; seed 2: (0 + 0 - .5 + NaN left out) / 3 = -16.67; mean 16.67
    found = preference_difference([np.array([1.0, 0.0]), np.array([0.0, 0.0, -0.5, np.nan])], key=("t",))
    assert found.mean == pytest.approx(50 / 3, rel=1e-12)
    assert found.positive == 1
    assert found.low <= found.mean <= found.high


def test_seeds_count_alike_whatever_their_number_of_instructions():
    # 100 instructions at 0 and one at 1: by seed (0 + 100) / 2, not 1 / 101 of 100
    assert preference_difference([np.zeros(100), np.ones(1)], key=("t",)).mean == 50.0


def test_a_constant_has_an_interval_of_no_width():
    assert hierarchical_interval([np.full(4, 3.0), np.full(9, 3.0)], key=("t",)) == (3.0, 3.0)


def test_seeds_that_differ_widen_the_interval_though_each_is_sure_of_itself():
    # Two seeds at -1 and +1 without any spread within: resamples are -1, 0, +1 with 1/4, 1/2, 1/4
    assert hierarchical_interval([np.full(50, -1.0), np.full(50, 1.0)], key=("t",)) == (-1.0, 1.0)


def test_one_seed_gives_the_ordinary_bootstrap_over_instructions():
    # 200 draws of -1 / +1: the mean has a standard error of 1 / sqrt(200) = .0707; 1.96 of it = .139
    low, high = hierarchical_interval([np.array([-1.0, 1.0] * 100)], key=("t",))
    assert low == pytest.approx(-0.139, abs=0.012)
    assert high == pytest.approx(0.139, abs=0.012)


def test_the_spread_over_both_levels_is_the_sum_of_the_two():
    # Seeds' means: -1, 1 (variance of the mean of 2 resampled seeds: 1 / 2). Within, values are mean +- 2: variance 4,
    # over 10 instructions .4 a seed, over two .2. Together .7: standard deviation .837.
    values = [np.array([mean - 2, mean + 2] * 5) for mean in (-1.0, 1.0)]
    low, high = hierarchical_interval(values, key=("t",), resamples=20_000, confidence=0.6827)
    assert (high - low) / 2 == pytest.approx(0.837, abs=0.05)


def test_the_interval_depends_on_the_key_and_on_nothing_else():
    values = [np.array([0.0, 1.0, 5.0]), np.array([2.0, 2.5])]
    assert hierarchical_interval(values, key=("a",)) == hierarchical_interval(values, key=("a",))
    drawn = {hierarchical_interval(values, key=(str(k),), resamples=101) for k in range(5)}
    assert len(drawn) > 1


def test_nothing_judged_for_both_is_an_error():
    with pytest.raises(DataError):
        preference_difference([np.array([1.0]), np.array([np.nan])], key=("t",))


def test_every_method_meets_every_control_of_its_round():
    names = ["sft", "best-of-4", "ppo", "ppo-kl0.1", "round-1/spg", "round-1/spg-kl0.1", "round-1/reseed"]
    names += ["round-2/spg", "round-2/reseed"]
    assert pairs_of(names) == [
        ("ppo", "sft"),
        ("round-1/spg", "ppo"),
        ("round-1/reseed", "ppo"),
        ("round-2/spg", "ppo"),
        ("round-2/reseed", "ppo"),
        ("round-1/spg", "round-1/reseed"),
        ("round-2/spg", "round-2/reseed"),
    ]
