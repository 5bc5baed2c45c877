import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlp_engine.methods.synthetic_preferences import (
    Decision,
    choose_pair,
    choose_reward_pair,
    choose_rlaif_pair,
    count_judgements,
    draw_two,
    rlaif_preference,
    rlaif_rates,
    summarise,
)

JUST_BELOW_1 = math.nextafter(1.0, 0.0)


def test_the_best_of_the_largest_cluster_is_preferred_to_an_answer_outside_it():
    got = choose_pair([0, 1, 0, 2, 0], [0.1, 9.0, 0.7, 0.0, 0.3], gamma=0.5, draw=0.0)
    assert got == Decision("accepted", 0.6, 3, 0, chosen=2, rejected=1, chosen_reward=0.7, rejected_reward=9.0)


def test_the_rejected_answer_is_uniform_over_answers_not_over_clusters():
    ids = [0] * 6 + [1] * 3 + [2]
    counts = Counter(choose_pair(ids, [0.0] * 10, 0.5, i / 400).rejected for i in range(400))
    assert counts == {6: 100, 7: 100, 8: 100, 9: 100}
    assert choose_pair(ids, [0.0] * 10, 0.5, JUST_BELOW_1).rejected == 9


def test_five_of_ten_pass_at_one_half_and_four_do_not():
    assert choose_pair([0] * 5 + [1, 2, 3, 4, 5], [0.0] * 10, 0.5, 0.0).accepted
    rejected = choose_pair([0] * 4 + [1, 2, 3, 4, 5, 6], [0.0] * 10, 0.5, 0.0)
    assert (rejected.reason, rejected.confidence, rejected.chosen) == ("low-confidence", 0.4, None)


@pytest.mark.parametrize("size", range(1, 10))
def test_the_threshold_is_inclusive_at_every_tenth(size):
    ids = [0] * size + list(range(1, 11 - size))
    assert choose_pair(ids, [0.0] * 10, float(f"0.{size}"), 0.0).accepted


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_one_cluster_gives_no_pair(gamma):
    got = choose_pair([3, 3, 3], [1.0, 2.0, 3.0], gamma, 0.5)
    assert (got.reason, got.confidence, got.num_clusters, got.rejected) == ("one-cluster", 1.0, 1, None)


def test_of_two_largest_clusters_the_one_with_the_highest_reward_wins():
    got = choose_pair([0, 0, 1, 1], [1.0, 2.0, 0.0, 3.0], 0.5, 0.0)
    assert (got.largest_cluster, got.chosen, got.rejected) == (1, 3, 0)


def test_further_ties_go_to_the_lower_cluster_id_and_the_lower_index():
    got = choose_pair([1, 1, 0, 0], [2.0, 2.0, 2.0, 2.0], 0.5, 0.0)
    assert (got.largest_cluster, got.chosen, got.rejected) == (0, 2, 0)


def test_select_all_is_gamma_0():
    got = choose_pair([0, 1, 2], [0.0, 5.0, 1.0], 0.0, 0.0)
    assert (got.reason, got.chosen, got.rejected) == ("accepted", 1, 0)


samples = st.integers(1, 10).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
        st.lists(st.floats(-5, 5), min_size=n, max_size=n),
    )
)


@given(samples, st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_what_holds_for_every_decision(sample, gamma, draw):
    ids, rewards = sample
    got = choose_pair(ids, rewards, gamma, draw)
    assert got.confidence == max(Counter(ids).values()) / len(ids)
    assert got.accepted == (len(set(ids)) > 1 and got.confidence >= gamma)
    if got.accepted:
        assert ids[got.chosen] == got.largest_cluster != ids[got.rejected]
        assert ids.count(got.largest_cluster) == max(Counter(ids).values())
        assert rewards[got.chosen] == max(r for r, g in zip(rewards, ids, strict=True) if g == got.largest_cluster)


@pytest.mark.parametrize(
    ("ids", "rewards", "gamma", "draw", "message"),
    [
        ([], [], 0.5, 0.0, "one cluster id and one reward"),
        ([0, 1], [1.0], 0.5, 0.0, "one cluster id and one reward"),
        ([0, 1], [1.0, math.nan], 0.5, 0.0, "finite"),
        ([0, 1], [1.0, 2.0], 1.5, 0.0, "gamma"),
        ([0, 1], [1.0, 2.0], 0.5, 1.0, "draw"),
        ([0, 1], [1.0, 2.0], 0.5, -0.1, "draw"),
    ],
)
def test_refusals(ids, rewards, gamma, draw, message):
    with pytest.raises(ValueError, match=message):
        choose_pair(ids, rewards, gamma, draw)


def test_two_answers_are_drawn_uniformly_over_unordered_pairs():
    counts = Counter(draw_two(4, i / 600) for i in range(600))
    assert counts == dict.fromkeys([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], 100)
    assert draw_two(10, JUST_BELOW_1) == (8, 9)
    with pytest.raises(ValueError, match="at least two"):
        draw_two(1, 0.0)


def test_reward_pair_prefers_the_higher_reward_and_drops_ties():
    got = choose_reward_pair([1.0, 2.0], 0.3)
    assert (got.reason, got.chosen, got.rejected, got.chosen_reward, got.confidence) == ("accepted", 1, 0, 2.0, None)
    assert choose_reward_pair([2.0, 1.0], 0.3).chosen == 0
    assert choose_reward_pair([2.0, 2.0], 0.3) == Decision("equal")


def logs(first, second):
    return math.log(first), math.log(second)


def test_a_judge_with_a_position_bias_only_has_no_preference():
    assert rlaif_preference(logs(0.9, 0.1), logs(0.9, 0.1)) == pytest.approx(0.5)


def test_both_orders_are_averaged():
    # a first: P(a) = .9; b first: P("2") = .4 means a
    assert rlaif_preference(logs(0.9, 0.1), logs(0.6, 0.4)) == pytest.approx(0.65)


def test_only_the_two_tokens_count_and_tiny_probabilities_do_no_harm():
    assert rlaif_preference(logs(0.09, 0.01), logs(0.006, 0.004)) == pytest.approx(0.65)
    assert rlaif_preference((-5000.0, -6000.0), (-6000.0, -5000.0)) == 1.0
    assert rlaif_preference((-math.inf, -1.0), (-1.0, -math.inf)) == 0.0


@pytest.mark.parametrize("order", [(math.nan, 0.0), (-math.inf, -math.inf)])
def test_judgements_that_say_nothing_are_refused(order):
    with pytest.raises(ValueError, match="log-probabilities"):
        rlaif_preference(order, (-1.0, -1.0))


def test_rlaif_pair_takes_the_preferred_answer_and_drops_ties():
    assert choose_rlaif_pair(2, 7, 0.6) == Decision("accepted", chosen=2, rejected=7)
    assert choose_rlaif_pair(2, 7, 0.4) == Decision("accepted", chosen=7, rejected=2)
    assert choose_rlaif_pair(2, 7, 0.5) == Decision("equal")
    with pytest.raises(ValueError, match="two answers and a probability"):
        choose_rlaif_pair(2, 2, 0.6)
    with pytest.raises(ValueError, match="two answers and a probability"):
        choose_rlaif_pair(2, 7, math.nan)


def test_summary_counts_prompts_by_what_became_of_them():
    decisions = [
        choose_pair([0, 0, 1, 2], [1.0, 0.0, 5.0, 5.0], 0.5, 0.0),  # accepted, y_l has the higher reward
        choose_pair([0, 0, 0, 1], [1.0, 0.0, 0.0, 0.5], 0.5, 0.0),
        choose_pair([0, 0, 0, 1], [1.0, 0.0, 0.0, 0.5], 0.5, 0.0),
        choose_pair([0, 0, 1, 1], [1.0, 0.0, 0.0, 1.0], 0.5, 0.9),  # accepted, equal rewards are not reversed
        choose_pair([0, 1, 2, 3], [0.0] * 4, 0.5, 0.0),
        choose_pair([0, 1, 2, 3], [0.0] * 4, 0.5, 0.0),
        choose_pair([0, 1, 2, 3], [0.0] * 4, 0.5, 0.0),
        choose_pair([0, 0, 0, 0], [0.0] * 4, 0.5, 0.0),
    ]
    assert decisions[3].chosen_reward == decisions[3].rejected_reward
    assert summarise(decisions) == {
        "prompts": 8,
        "accepted": 4,
        "acceptance_rate": 0.5,
        "low_confidence_rate": 0.375,
        "one_cluster_rate": 0.125,
        "equal_rate": 0.0,
        "reversed_reward_rate": 0.25,
        "confidence_histogram": {"0.25": 3, "0.50": 2, "0.75": 2, "1.00": 1},
    }


def test_summary_of_nothing_has_no_rates():
    assert summarise([])["acceptance_rate"] is None
    assert summarise([choose_rlaif_pair(0, 1, 0.9)])["reversed_reward_rate"] is None


def test_an_rlaif_pair_reports_the_rewards_it_is_given():
    got = choose_rlaif_pair(0, 2, 0.4, [1.0, 2.0, 3.0])
    assert (got.chosen, got.rejected, got.chosen_reward, got.rejected_reward) == (2, 0, 3.0, 1.0)
    assert choose_rlaif_pair(0, 2, 0.5, [1.0, 2.0, 3.0]) == Decision("equal")


def test_how_the_policy_judged_worked_by_hand():
    judgements = [
        (logs(0.9, 0.1), logs(0.1, 0.9)),  # preference .9, both orders agree, P("1") .9 and .1
        (logs(0.8, 0.2), logs(0.6, 0.4)),  # preference .6, each order prefers what it shows first: .8 and .6
        (logs(0.2, 0.8), logs(0.7, 0.3)),  # preference .25 = .75 for the other, agree: .2 and .7
        (logs(0.5, 0.5), logs(0.1, 0.9)),  # preference .7; the first order has none: .5 and .1
    ]
    got = rlaif_rates(count_judgements(judgements))
    assert got["rlaif_asked"] == 4
    assert got["rlaif_confident_rate"] == 0.5
    assert got["rlaif_consistent_rate"] == 0.5
    assert got["rlaif_first_label"] == pytest.approx((0.9 + 0.1 + 0.8 + 0.6 + 0.2 + 0.7 + 0.5 + 0.1) / 8)
    assert rlaif_rates(count_judgements([]))["rlaif_first_label"] is None
