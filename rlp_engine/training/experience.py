"""From a rollout to what PPO learns from, in METHOD 5.1's order: token rewards, scale, advantages, whitening.

Shapes: B = answers of the rollout batch, T = response positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from rlp_engine.config.sections.ppo import PpoConfig
from rlp_engine.data.records import Prompt
from rlp_engine.methods import gae, kl, masked
from rlp_engine.methods.ppo_loss import explained_variance


class Rollout(NamedTuple):
    """What the policy, the reference, the value model and the reward model said of B sampled answers."""

    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    response_ids: list[list[int]]  # the policy's tokens, the EOS included where there is one
    texts: list[str]  # decoded without special tokens: what the reward model read
    ended_B: Tensor  # bool: the answer ends in EOS
    scores_B: Tensor  # float32, reward-model units
    is_live_BT: Tensor  # bool: the tokens that the policy sampled
    logprobs_BT: Tensor  # float32, nats, at the sampling temperature; 0 where not live
    reference_logprobs_BT: Tensor  # the same of the reference
    values_BT: Tensor  # float32: value t is computed before token t; past the end only padded losses read it


class Experience(NamedTuple):
    """A rollout with what is learned from it."""

    rollout: Rollout
    advantages_BT: Tensor  # whitened
    returns_BT: Tensor  # targets of the value model


def experience_of(
    rollout: Rollout, config: PpoConfig, kl_coefficient: float, *, reward_mean: float = 0.0, reward_std: float = 1.0
) -> tuple[Experience, dict[str, float]]:
    """Rewards, advantages and returns of a rollout, and its metrics.

    Returns:
        (experience, metrics). Metrics are means over answers: reward (the score as PPO uses it minus the KL
        penalty, before whitening), score (reward-model units), kl (by k1: unbiased, may be negative by
        chance) and kl_ESTIMATOR (the one in the reward), both in nats a sequence, length (tokens),
        eos_share; and entropy (nats a token, estimated from the sampled ones), distinct_2,
        explained_variance (of the returns by the values), empty_answers (number).
    """
    live_BT, mask_padding = rollout.is_live_BT, config.mask_padding
    scores_B = (rollout.scores_B - reward_mean) / reward_std
    scores_B = gae.scores_without_eos(scores_B, rollout.ended_B, config.missing_eos, config.missing_eos_penalty)
    kl_BT = kl.per_token_kl(rollout.logprobs_BT, rollout.reference_logprobs_BT, live_BT, config.kl_estimator)
    rewards_BT = gae.token_rewards(kl_BT, scores_B, live_BT, kl_coefficient, score_empty_at_end=not mask_padding)
    scaled_BT = gae.whiten_rewards(rewards_BT, live_BT, config.whiten_rewards, mask_padding=mask_padding)
    raw_advantages_BT, returns_BT = gae.advantages(
        scaled_BT, rollout.values_BT, live_BT, config.gamma, config.gae_lambda, mask_padding=mask_padding
    )
    advantages_BT = masked.whiten(raw_advantages_BT, masked.counted(live_BT, mask_padding))

    k1_BT = kl.per_token_kl(rollout.logprobs_BT, rollout.reference_logprobs_BT, live_BT, "k1")
    metrics = {
        "reward": rewards_BT.sum(1).mean(),
        "score": rollout.scores_B.mean(),
        "kl": kl.mean_sequence_kl(k1_BT),
        f"kl_{config.kl_estimator}": kl.mean_sequence_kl(kl_BT),
        "length": live_BT.sum(1).float().mean(),
        "eos_share": rollout.ended_B.float().mean(),
        "entropy": -masked.masked_mean(rollout.logprobs_BT, live_BT),
        "distinct_2": distinct_bigrams(rollout.response_ids),
        "explained_variance": explained_variance(rollout.values_BT, returns_BT, live_BT),
        "empty_answers": (~live_BT.any(1)).sum(),
    }
    experience = Experience(rollout, advantages_BT, returns_BT)
    return experience, {name: float(value) for name, value in metrics.items()}


def distinct_bigrams(response_ids: Sequence[list[int]]) -> float:
    """Different bigrams over all bigrams of the answers; falls when the policy repeats itself. 1 without any."""
    bigrams = [pair for ids in response_ids for pair in itertools.pairwise(ids)]
    return len(set(bigrams)) / len(bigrams) if bigrams else 1.0
