"""Two answers of 2 and 3 tokens; expected numbers are worked by hand from METHOD 5."""

import pytest
import torch

from rlp_engine.config.sections.ppo import PpoConfig
from rlp_engine.data.records import Prompt
from rlp_engine.training.experience import Rollout, distinct_bigrams, experience_of

LIVE = torch.tensor([[True, True, False], [True, True, True]])


def rollout(**changes):
    fields = {
        "prompts": [Prompt("a", "x"), Prompt("b", "y")],
        "prompt_ids": [[1], [2]],
        "response_ids": [[5, 6], [5, 6, 7]],
        "texts": ["", ""],
        "ended_B": torch.tensor([True, False]),
        "scores_B": torch.tensor([2.0, -1.0]),
        "is_live_BT": LIVE,
        "logprobs_BT": torch.tensor([[-1.0, -1.0, 0.0], [-2.0, -1.0, -3.0]]),
        "reference_logprobs_BT": torch.tensor([[-1.5, -0.5, 0.0], [-2.0, -2.0, -3.0]]),
        "values_BT": torch.tensor([[0.5, 1.0, 9.0], [0.0, 0.0, 0.0]]),
    }
    return Rollout(**(fields | changes))


def config(**changes):
    return PpoConfig(**({"whiten_rewards": "off"} | changes))


# k1 is [0.5, -0.5] and [0, 1, 0]; token rewards at coefficient 0.1: [-0.05, 2.05] and [0, -0.1, -1]
def test_kl_is_charged_at_each_token_and_the_score_paid_at_the_last():
    experience, metrics = experience_of(rollout(), config(), 0.1)
    torch.testing.assert_close(experience.returns_BT, torch.tensor([[2.0, 2.05, 0.0], [-1.1, -1.1, -1.0]]))
    assert metrics["reward"] == pytest.approx((2.0 - 1.1) / 2)
    assert metrics["score"] == pytest.approx(0.5)
    assert metrics["kl"] == metrics["kl_k1"] == pytest.approx(0.5)
    assert metrics["length"] == pytest.approx(2.5)
    assert metrics["eos_share"] == pytest.approx(0.5)
    assert metrics["entropy"] == pytest.approx(8 / 5)


def test_advantages_are_whitened_over_live_tokens_only():
    experience, _ = experience_of(rollout(), config(), 0.1)
    raw = torch.tensor([1.5, 1.05, -1.1, -1.1, -1.0])  # return minus value
    expected = (raw - raw.mean()) / raw.std(correction=0)
    torch.testing.assert_close(experience.advantages_BT[LIVE], expected, rtol=1e-5, atol=1e-6)
    assert float(experience.advantages_BT[0, 2]) == 0.0


def test_padding_may_hold_anything():
    nonsense = {
        name: torch.where(LIVE, getattr(rollout(), name), 1e9)
        for name in ("logprobs_BT", "reference_logprobs_BT", "values_BT")
    }
    found, metrics = experience_of(rollout(**nonsense), config(), 0.1)
    expected, expected_metrics = experience_of(rollout(), config(), 0.1)
    assert torch.equal(found.advantages_BT, expected.advantages_BT)
    assert torch.equal(found.returns_BT, expected.returns_BT)
    assert metrics == expected_metrics


def test_reward_scale_comes_before_the_missing_eos_penalty():
    # (2 - 1) / 2 = 0.5; the other answer has no EOS: its score becomes -3, in PPO's units
    _, metrics = experience_of(
        rollout(), config(missing_eos="replace", missing_eos_penalty=3.0), 0.0, reward_mean=1.0, reward_std=2.0
    )
    assert metrics["reward"] == pytest.approx((0.5 - 3.0) / 2)
    assert metrics["score"] == pytest.approx(0.5)  # always the reward model's own


def test_a_penalty_can_be_subtracted():
    _, metrics = experience_of(rollout(), config(missing_eos="subtract", missing_eos_penalty=3.0), 0.0)
    assert metrics["reward"] == pytest.approx((2.0 - 4.0) / 2)


def test_the_estimator_in_the_reward_is_named_and_k1_is_always_there():
    experience, metrics = experience_of(rollout(), config(kl_estimator="clamped"), 0.1)
    assert metrics["kl"] == pytest.approx(0.5)
    assert metrics["kl_clamped"] == pytest.approx(0.75)
    assert "kl_k1" not in metrics
    assert float(experience.returns_BT[0, 0]) == pytest.approx(2.0 - 0.05)


def test_rewards_are_divided_by_the_live_standard_deviation():
    experience, metrics = experience_of(rollout(), config(whiten_rewards="scale"), 0.1)
    scale = torch.tensor([-0.05, 2.05, 0.0, -0.1, -1.0]).std(correction=0)
    torch.testing.assert_close(experience.returns_BT[0, :2], torch.tensor([2.0, 2.05]) / scale, rtol=1e-5, atol=1e-6)
    assert metrics["reward"] == pytest.approx((2.0 - 1.1) / 2)  # as it was before


def test_alpacafarm_lets_padding_take_part_in_everything():
    experience, _ = experience_of(
        rollout(), config(kl_estimator="clamped", whiten_rewards="keep-mean", mask_padding=False), 0.1
    )
    rewards = torch.tensor([[-0.05, 2.0, 0.0], [0.0, -0.1, -1.0]])
    whitened = (rewards - rewards.mean()) / rewards.std(correction=0) + rewards.mean()
    returns = whitened.flip(1).cumsum(1).flip(1)
    advantages = returns - rollout().values_BT
    torch.testing.assert_close(experience.returns_BT, returns, rtol=1e-5, atol=1e-6)
    whitened_advantages = (advantages - advantages.mean()) / advantages.std(correction=0)
    torch.testing.assert_close(experience.advantages_BT, whitened_advantages, rtol=1e-5, atol=1e-6)


def test_an_empty_answer_counts_for_nothing_but_is_counted():
    none = torch.tensor([[False, False, False], [True, True, True]])
    empty = rollout(is_live_BT=none, response_ids=[[], [5, 6, 7]])
    experience, metrics = experience_of(empty, config(), 0.1)
    assert metrics["empty_answers"] == 1
    assert metrics["reward"] == pytest.approx(-1.1 / 2)
    assert experience.returns_BT[0].tolist() == [0.0, 0.0, 0.0]
    assert experience.advantages_BT[0].tolist() == [0.0, 0.0, 0.0]


def test_distinct_bigrams_fall_with_repetition():
    assert distinct_bigrams([[1, 2, 3], [4, 5]]) == 1.0
    assert distinct_bigrams([[1, 1, 1, 1, 1]]) == 0.25
    assert distinct_bigrams([[1], []]) == 1.0
