from __future__ import annotations

import math

import numpy as np
import pytest

from rlp_engine.errors import DataError
from rlp_engine.evaluation.reward_accuracy import compared_accuracy, confirmed_share, reward_accuracy


def test_numbers_worked_by_hand() -> None:
    # prompt 1: true 1 < 2 < 3, rewards order (1,2) wrong, (1,3) right, (2,3) right; prompt 2: one tie in reward: 1/2
    result = reward_accuracy([[0.5, 0.1, 0.9], [1.0, 1.0]], [[1, 2, 3], [5, 4]])
    assert result.n == 4
    assert result.accuracy == pytest.approx(2.5 / 4)


def test_pairs_with_equal_true_scores_do_not_count() -> None:
    result = reward_accuracy([[1.0, 2.0, 3.0]], [[7, 7, 8]])
    assert (result.accuracy, result.n) == (1.0, 2)


def test_answers_to_different_prompts_are_never_compared() -> None:
    assert reward_accuracy([[1.0], [2.0]], [[2.0], [1.0]]).n == 0
    assert math.isnan(reward_accuracy([[1.0], [2.0]], [[2.0], [1.0]]).accuracy)


def test_a_scale_or_shift_of_the_rewards_changes_nothing() -> None:
    random = np.random.default_rng(0)
    rewards, scores = random.normal(size=(20, 6)), random.normal(size=(20, 6))
    base = reward_accuracy(rewards.tolist(), scores.tolist())
    assert reward_accuracy((3 * rewards + 100).tolist(), scores.tolist()) == base
    assert reward_accuracy((-rewards).tolist(), scores.tolist()).accuracy == pytest.approx(1 - base.accuracy)


def test_must_differ_keeps_only_pairs_that_differ_in_it() -> None:
    # the reward is right on style (0 against 1, 2 against 3) and wrong across correctness
    rewards, scores = [[1.0, 2.0, 0.0, 0.5]], [[1, 2, 3, 4]]
    correct = [[False, False, True, True]]
    assert reward_accuracy(rewards, scores).accuracy == pytest.approx(2 / 6)
    across = reward_accuracy(rewards, scores, must_differ=correct)
    assert (across.accuracy, across.n) == (0.0, 4)


def test_standard_error_counts_prompts_not_pairs() -> None:
    # every prompt is all right or all wrong: 45 pairs a prompt say no more than one
    rows = [list(range(10)) if i % 2 else list(range(10, 0, -1)) for i in range(100)]
    result = reward_accuracy(rows, [list(range(10))] * 100)
    assert result.accuracy == pytest.approx(0.5)
    assert result.n == 4500
    assert result.standard_error == pytest.approx(0.05, rel=0.02)  # sqrt(0.25 / 100), not sqrt(0.25 / 4500) = 0.0075


def test_other_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="length"):
        reward_accuracy([[1.0, 2.0]], [[1.0]])


def test_confirmed_share_worked_by_hand() -> None:
    # right, right, wrong, draw, unread: (1 + 1 + 0 + 1/2) / 4; std of 1, 1, 0, .5 with N - 1 is sqrt(11/48)
    result = confirmed_share([1.0, 1.2, 2.0, 1.5, None])
    assert (result.accuracy, result.n) == (0.625, 4)
    assert result.standard_error == pytest.approx(math.sqrt(11 / 48) / 2)
    assert confirmed_share([1.51]).accuracy == 0.0
    assert math.isnan(confirmed_share([None]).accuracy)


def test_accuracy_on_compared_pairs_worked_by_hand() -> None:
    # prompt 1: the judge prefers answer 1 of (0, 1), as the rewards do; (2, 3) is a draw. Prompt 2: it prefers answer 0
    # of (0, 1), the rewards are equal: 1/2; (2, 3) cannot be read. So (1 + 1/2) / 2
    rewards = [[0.0, 1.0, 5.0, 6.0], [2.0, 2.0, 0.0, 1.0]]
    result = compared_accuracy(rewards, [[(0, 1, 2.0), (2, 3, 1.5)], [(0, 1, 1.25), (2, 3, None)]])
    assert (result.accuracy, result.n) == (0.75, 2)
    assert result.standard_error == pytest.approx(math.sqrt(2 * (0.25**2 + 0.25**2)) / 2)
    with pytest.raises(DataError, match="length"):
        compared_accuracy(rewards, [[]])
