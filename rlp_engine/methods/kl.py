"""KL of the policy from the reference, token by token, and its coefficient. Shapes: B sequences, T response tokens.

With k = log pi(token) - log pi_ref(token) of a token drawn from pi (Schulman 2020, "Approximating KL divergence"):
k itself is unbiased, exp(-k) - 1 + k is unbiased and never negative, max(k, 0) is AlpacaFarm's and too high.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from rlp_engine.methods.checks import at_least_float32, require_same_shape
from rlp_engine.methods.masked import zero_elsewhere

KlEstimator = Literal["k1", "k3", "clamped"]


def per_token_kl(
    logprobs_BT: Tensor, reference_logprobs_BT: Tensor, is_live_BT: Tensor, estimator: KlEstimator = "k1"
) -> Tensor:
    """Estimated KL in nats of every live token; 0 at the others, which may hold anything.

    Args:
        logprobs_BT: log pi(token), nats, at the sampling temperature.
        reference_logprobs_BT: log pi_ref(token), the same temperature.
        is_live_BT: True = the policy's own token.
        estimator: "k1" = log ratio (ours, and [TRL]); "k3" = exp(-k1) - 1 + k1, infinite in float32 where the
            reference is 88 nats above the policy; "clamped" = max(k1, 0) (AlpacaFarm `rl/ppo_trainer.py`), which
            overestimates and gives no credit for tokens below the reference.

    Returns:
        (B, T), at least float32.

    Raises:
        ValueError: if the shapes differ, the mask is not bool, or the estimator is unknown.
    """
    require_same_shape(2, logprobs_BT=logprobs_BT, reference_logprobs_BT=reference_logprobs_BT, is_live_BT=is_live_BT)
    k1_BT = zero_elsewhere(logprobs_BT, is_live_BT) - zero_elsewhere(reference_logprobs_BT, is_live_BT)
    if estimator == "k1":
        return k1_BT
    if estimator == "k3":
        return torch.expm1(-k1_BT) + k1_BT
    if estimator == "clamped":
        return k1_BT.clamp(min=0.0)
    raise ValueError(f"unknown KL estimator {estimator!r}: k1, k3 or clamped")


def mean_sequence_kl(kl_BT: Tensor) -> Tensor:
    """Mean over sequences of the summed token KLs, nats a sequence. `kl_BT` is 0 where nothing is live.

    Raises:
        ValueError: if there is no sequence, or not two axes.
    """
    if kl_BT.ndim != 2 or kl_BT.shape[0] == 0:
        raise ValueError(f"want (B, T) of at least one sequence, got {tuple(kl_BT.shape)}")
    return at_least_float32(kl_BT).sum(1).mean()


def next_kl_coefficient(coefficient: float, sequence_kl: float, *, target: float = 6.0, gain: float = 0.1) -> float:
    """The adaptive coefficient after one PPO step.

        coefficient * (1 + gain * clip(sequence_kl / target - 1, -0.2, 0.2))
        (Ziegler et al. 2019, arXiv:1909.08593, section 2.2; target and gain are AlpacaFarm's, METHOD 5.1)

    Args:
        sequence_kl: `mean_sequence_kl` of the step's rollout, nats, by the estimator the rewards use.

    Raises:
        ValueError: if the KL is not a finite number, the target not above 0, or the gain outside [0, 5): from 5
            on one step could make the coefficient 0 or negative.
    """
    if not math.isfinite(sequence_kl) or not target > 0:
        raise ValueError(f"want a finite KL and a target above 0, got {sequence_kl} and {target}")
    if not 0 <= gain < 5:
        raise ValueError(f"want a gain in [0, 5), got {gain}")
    return coefficient * (1.0 + gain * min(max(sequence_kl / target - 1.0, -0.2), 0.2))
