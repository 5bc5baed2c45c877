"""Token rewards and generalised advantages. Shapes: B sequences, T response tokens (right-padded).

METHOD 5.1 steps 4 to 6, with 5.2's masks. `mask_padding=False` is AlpacaFarm as run: every position takes
part, the padding too. The mask must be live first and dead after, as right padding makes it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlp_engine.methods.checks import at_least_float32, require_bool, require_same_shape
from rlp_engine.methods.masked import counted, scale_only, whiten, zero_elsewhere


def last_live_index(is_live_BT: Tensor) -> Tensor:
    """(B,) position of the last live token; -1 for a response without any.

    Raises:
        ValueError: if a dead token precedes a live one.
    """
    _require_prefix(is_live_BT)
    return is_live_BT.sum(1) - 1


def scores_without_eos(
    scores_B: Tensor, has_eos_B: Tensor, mode: Literal["off", "replace", "subtract"], penalty: float
) -> Tensor:
    """Scores of responses, changed where the EOS is missing (METHOD 5.2).

    "off" changes nothing (AlpacaFarm as run), "replace" makes the score -penalty (Ziegler et al. 2019),
    "subtract" takes penalty away (TRL).

    Raises:
        ValueError: if the shapes differ, `has_eos_B` is not bool, or the mode is unknown.
    """
    require_same_shape(1, scores_B=scores_B, has_eos_B=has_eos_B)
    require_bool(has_eos_B=has_eos_B)
    scores_B = at_least_float32(scores_B)
    if mode == "off":
        return scores_B
    if mode == "replace":
        return torch.where(has_eos_B, scores_B, torch.full_like(scores_B, -penalty))
    if mode == "subtract":
        return torch.where(has_eos_B, scores_B, scores_B - penalty)
    raise ValueError(f"unknown mode {mode!r}: off, replace or subtract")


def token_rewards(
    kl_BT: Tensor,
    scores_B: Tensor,
    is_live_BT: Tensor,
    kl_coefficient: float,
    *,
    score_empty_at_end: bool = False,
) -> Tensor:
    """r_t = -kl_coefficient * kl_t, plus the score at the last live token (the EOS if there is one).

    Args:
        kl_BT: from `per_token_kl`, nats.
        scores_B: reward of each whole response.
        score_empty_at_end: a response without live tokens gets its score at position T-1, where AlpacaFarm's
            index -1 puts it; False (ours) drops it.

    Returns:
        (B, T), 0 where nothing is live (but for `score_empty_at_end`).

    Raises:
        ValueError: if shapes do not fit, or a dead token precedes a live one.
    """
    require_same_shape(2, kl_BT=kl_BT, is_live_BT=is_live_BT)
    if scores_B.shape != kl_BT.shape[:1]:
        raise ValueError(f"want scores of shape {tuple(kl_BT.shape[:1])}, got {tuple(scores_B.shape)}")
    last_B = last_live_index(is_live_BT)
    has_score_B = (last_B >= 0) | score_empty_at_end
    position_BT = torch.arange(kl_BT.shape[1], device=kl_BT.device).expand_as(kl_BT)
    at_end_BT = (position_BT == torch.where(last_B >= 0, last_B, kl_BT.shape[1] - 1)[:, None]) & has_score_B[:, None]
    scores_BT = at_least_float32(scores_B)[:, None].expand_as(kl_BT)
    return -kl_coefficient * zero_elsewhere(kl_BT, is_live_BT) + zero_elsewhere(scores_BT, at_end_BT)


def whiten_rewards(
    rewards_BT: Tensor, is_live_BT: Tensor, mode: Literal["off", "scale", "keep-mean"], *, mask_padding: bool = True
) -> Tensor:
    """Token rewards on a scale of 1 (METHOD 5.1 step 5, 5.2).

    "scale" divides by the standard deviation (ours); "keep-mean" whitens and adds the mean back (AlpacaFarm,
    with `mask_padding=False`: over the padding too). Masked, "keep-mean" pays for length: see `masked.whiten`.

    Raises:
        ValueError: if the shapes differ, the mask is not bool, or the mode is unknown.
    """
    counts_BT = counted(is_live_BT, mask_padding)
    if mode == "off":
        return zero_elsewhere(rewards_BT, counts_BT)
    if mode == "scale":
        return scale_only(rewards_BT, counts_BT)
    if mode == "keep-mean":
        return whiten(rewards_BT, counts_BT, keep_mean=True)
    raise ValueError(f"unknown mode {mode!r}: off, scale or keep-mean")


def advantages(
    rewards_BT: Tensor,
    values_BT: Tensor,
    is_live_BT: Tensor,
    gamma: float,
    gae_lambda: float,
    *,
    mask_padding: bool = True,
) -> tuple[Tensor, Tensor]:
    """Generalised advantages and returns; no gradient, not whitened.

        delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lambda A_{t+1},   return_t = A_t + V_t
        (Schulman et al. 2016, arXiv:1506.02438, eq. 16; V and A are 0 past the end)

    Args:
        rewards_BT: token rewards.
        values_BT: the value model's estimate *before* token t.
        is_live_BT: True = the policy's own token.
        gamma, gae_lambda: both 1 makes return_t the sum of the rewards from t on.
        mask_padding: True: the end is the last live token. False: the end is T, and padding takes part (AlpacaFarm).

    Returns:
        (advantages_BT, returns_BT), 0 where nothing counts. Whiten the advantages with `masked.whiten`.

    Raises:
        ValueError: if the shapes differ, or a dead token precedes a live one.
    """
    require_same_shape(2, rewards_BT=rewards_BT, values_BT=values_BT, is_live_BT=is_live_BT)
    _require_prefix(is_live_BT)
    counts_BT = counted(is_live_BT, mask_padding)
    rewards_BT = zero_elsewhere(rewards_BT.detach(), counts_BT)
    values_BT = zero_elsewhere(values_BT.detach(), counts_BT)
    advantages_BT = torch.zeros_like(values_BT)
    next_value_B = torch.zeros_like(values_BT[:, 0])
    next_advantage_B = torch.zeros_like(next_value_B)
    for t in reversed(range(values_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        next_advantage_B = delta_B + gamma * gae_lambda * next_advantage_B
        next_value_B = values_BT[:, t]
        advantages_BT[:, t] = next_advantage_B  # dead entries: rewards, values and what follows are all 0
    return advantages_BT, advantages_BT + values_BT


def _require_prefix(is_live_BT: Tensor) -> None:
    require_bool(is_live_BT=is_live_BT)
    if is_live_BT.ndim != 2:
        raise ValueError(f"want a (B, T) mask, got {tuple(is_live_BT.shape)}")
    if bool((is_live_BT[:, 1:] & ~is_live_BT[:, :-1]).any()):
        raise ValueError("a dead token precedes a live one: responses must be right-padded")
