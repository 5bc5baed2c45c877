"""Reading policies off at the same KL: interpolation in sqrt(KL), by hand, and never beyond what was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlp_engine.study.matched_kl import Point, families, matched, read_off


def point(kl, score, *preferences):
    return Point(kl, score, np.array(preferences or (1.5,), dtype=np.float64))


def test_between_two_points_everything_is_linear_in_the_root():
    # sqrt: 1 at KL 1, 3 at KL 9; KL 4 is half way. Score (2 + 4) / 2, preferences (1 + 2) / 2 and (2 + 2) / 2
    found = read_off([point(0, 0, 1, 1), point(1, 2, 1, 2), point(9, 4, 2, 2)], 4.0)
    assert found.score == pytest.approx(3.0)
    assert found.preferences_N.tolist() == [1.5, 2.0]
    assert found.win_rate == pytest.approx(75.0)
    assert not found.is_on_chord


def test_below_its_first_policy_a_family_is_a_chord_from_sft():
    # sqrt(1) of sqrt(4): half way
    found = read_off([point(0, 1.0), point(4, 3.0), point(9, 9.0)], 1.0)
    assert found.score == pytest.approx(2.0)
    assert found.is_on_chord


def test_at_a_point_it_is_that_point():
    points = [point(0, 0.0), point(2, 5.0, 1, 2), point(8, 1.0)]
    assert read_off(points, 2.0).score == 5.0
    assert read_off(points, 8.0).score == 1.0
    assert read_off(points, 0.0).score == 0.0


def test_nothing_is_extrapolated():
    assert read_off([point(0, 0.0), point(2, 5.0)], 2.000001) is None
    assert read_off([], 1.0) is None


def test_points_of_one_kl_count_as_their_mean():
    assert read_off([point(0, 0.0), point(1, 2.0), point(1, 4.0)], 1.0).score == 3.0


@given(st.lists(st.floats(0.01, 50), min_size=2, max_size=6, unique=True), st.floats(0, 1), st.randoms())
def test_the_order_of_the_points_is_nothing_and_the_value_lies_between_neighbours(kls, share, random):
    points = [point(kl, kl % 7) for kl in kls]
    at = min(kls) + share * (max(kls) - min(kls))
    shuffled = list(points)
    random.shuffle(shuffled)
    first, second = read_off(points, at), read_off(shuffled, at)
    if first is None:  # rounding carried `at` beyond the last point
        assert at > max(kls)
        return
    assert first.score == second.score
    below = max((p for p in points if p.kl <= at), key=lambda p: p.kl, default=points[0])
    above = min((p for p in points if p.kl >= at), key=lambda p: p.kl, default=points[0])
    low, high = sorted([below.score, above.score])
    assert low - 1e-9 <= first.score <= high + 1e-9


def test_a_family_is_the_policies_of_one_reward_model_and_sft(results):
    run = results(
        1,
        **{
            "sft": (None, 1.0, [1.5]),
            "best-of-4": (None, 9.0, [2]),
            "ppo": (4.0, 2.0, [2]),
            "ppo-kl0.4": (-0.1, 1.1, [1.5]),
            "round-1/spg": (5.0, 3.0, [2]),
        },
    )
    found = families(run)
    assert {name: [p.kl for p in points] for name, points in found.items()} == {
        "ppo": [0.0, 0.0, 4.0],  # a KL sampled below 0 is 0
        "round-1/spg": [0.0, 5.0],
    }


def curve(results, seed, *, ppo, spg):
    """Two families whose score is twice, and three times, sqrt(KL)."""
    policies = {"sft": (None, 0.0, [1.0, 1.0])}
    for family, slope, kls in (("ppo", 2.0, ppo), ("round-1/spg", 3.0, spg)):
        for i, kl in enumerate(kls):
            name = family if i == 0 else f"{family}-kl0.{i}"
            policies[name] = (kl, slope * kl**0.5, [1 + min(1.0, slope * kl**0.5 / 10)] * 2)
    return results(seed, **policies)


def test_at_the_same_kl_the_better_reward_model_shows_though_its_policy_stands_elsewhere(results):
    # At their own KL ppo has 2 * 3 = 6 and spg 3 * 1 = 3; at KL 1 it is 2 against 3
    runs = [curve(results, seed, ppo=[9.0, 0.25], spg=[1.0, 0.25]) for seed in (1, 2)]
    found = {row.kl: row for row in matched(runs).differences}
    assert found[1.0].score.mean == pytest.approx(1.0)
    assert found[1.0].score.positive == 2
    assert found[1.0].win_rate.mean == pytest.approx(10.0)
    assert max(found) == 1.0, "spg has no policy beyond KL 1"


def test_seeds_that_do_not_reach_a_kl_are_left_out_and_counted(results):
    runs = [curve(results, 1, ppo=[4.0, 1.0], spg=[4.0, 1.0]), curve(results, 2, ppo=[4.0, 1.0], spg=[2.0, 1.0])]
    found = matched(runs)
    assert {row.kl: row.score.seeds for row in found.differences} == {1.0: 2, 1.5: 2, 2.0: 2, 3.0: 1, 4.0: 1}
    at_3 = [row for row in found.means if row.kl == 3.0]
    assert [(row.family, row.score.seeds) for row in at_3] == [("ppo", 1), ("round-1/spg", 1)]


def test_seeds_read_on_the_chord_from_sft_are_kept_apart(results):
    # Seed 2's spg has its first policy at KL 2: at 1.5 it is read on the chord
    runs = [curve(results, 1, ppo=[4.0, 1.0], spg=[4.0, 1.0]), curve(results, 2, ppo=[4.0, 1.0], spg=[4.0, 2.0])]
    found = matched(runs)
    assert {row.kl: row.score.seeds for row in found.differences} == {1.0: 1, 1.5: 1, 2.0: 2, 3.0: 2, 4.0: 2}
    assert {row.kl: (row.on_chord, row.score.seeds) for row in found.on_chord} == {
        0.2: (2, 2),
        0.5: (2, 2),
        1.0: (1, 2),
        1.5: (1, 2),
    }
    assert [row.on_chord for row in found.means if row.kl == 1.5] == [0, 1]


def test_a_family_of_one_policy_is_not_read_at_another_kl(results):
    run = curve(results, 1, ppo=[4.0, 1.0], spg=[2.0])
    found = matched([run])
    assert found.differences == found.on_chord == []
    assert {row.family for row in found.means} == {"ppo"}


def test_without_a_curve_there_is_nothing_to_match(results):
    assert matched([curve(results, 1, ppo=[4.0], spg=[2.0])]).differences == []
