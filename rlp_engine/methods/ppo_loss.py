"""Clipped policy and value losses. Shapes: B sequences, T response tokens.

Losses are sums over `denominator` (the counted tokens of the whole minibatch, `num_counted`), so that the
microbatches of a minibatch add up to its mean. `mask_padding=False` is AlpacaFarm as run: means over all
positions, where padding has ratio 1, adds a constant to the policy loss and trains the value model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlp_engine.methods.checks import require_bool, require_same_shape
from rlp_engine.methods.masked import counted, masked_mean, zero_elsewhere

MAX_LOG_RATIO = 20.0


def num_counted(is_live_BT: Tensor, mask_padding: bool = True) -> int:
    """Tokens a mean runs over: the `denominator` of a minibatch. At least 1, so that an empty one has loss 0."""
    return max(1, int(counted(is_live_BT, mask_padding).sum()))


def policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    is_live_BT: Tensor,
    *,
    clip_ratio: float = 0.2,
    denominator: float | None = None,
    mask_padding: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped surrogate, to be minimised.

        L = mean max(-A rho, -A clip(rho, 1 - c, 1 + c)),   rho = exp(logp - logp_old)
        (Schulman et al. 2017, arXiv:1707.06347, eq. 7, negated)

    The log ratio is held within +-20: past 88 float32 overflows, and the clipped branch's 0 times infinity would
    make the gradient NaN. `ratio_max` shows when that happens.

    Args:
        logprobs_BT: of the policy that learns, nats, at the sampling temperature.
        old_logprobs_BT: of the policy that sampled, by the same code and precision; no gradient flows into it.
        advantages_BT: whitened over the rollout.
        is_live_BT: True = the policy's own token.
        clip_ratio: c, above 0.
        denominator: counted tokens of the minibatch; None = of this batch.
        mask_padding: False = all positions take part, AlpacaFarm as run.

    Returns:
        (loss, diagnostics): scalar loss; "clip_fraction" (share of counted tokens whose ratio left the interval),
        "approximate_kl" (mean of rho - 1 - log rho, nats a token), "ratio_mean": shares over `denominator`,
        which add up over microbatches like the loss; "ratio_max" does not (take the maximum).

    Raises:
        ValueError: if the shapes differ, the mask is not bool, or clip_ratio is not above 0.
    """
    require_same_shape(
        2,
        logprobs_BT=logprobs_BT,
        old_logprobs_BT=old_logprobs_BT,
        advantages_BT=advantages_BT,
        is_live_BT=is_live_BT,
    )
    if not clip_ratio > 0:
        raise ValueError(f"clip_ratio must be above 0, got {clip_ratio}")
    counts_BT = counted(is_live_BT, mask_padding)
    advantages_BT = zero_elsewhere(advantages_BT.detach(), counts_BT)
    old_BT = zero_elsewhere(old_logprobs_BT.detach(), is_live_BT)
    log_ratio_BT = (zero_elsewhere(logprobs_BT, is_live_BT) - old_BT).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_BT = log_ratio_BT.exp()
    clipped_BT = ratio_BT.clamp(1.0 - clip_ratio, 1.0 + clip_ratio)
    loss_BT = torch.maximum(-advantages_BT * ratio_BT, -advantages_BT * clipped_BT)
    with torch.no_grad():
        outside_BT = (ratio_BT - 1.0).abs() > clip_ratio
        diagnostics = {
            "clip_fraction": masked_mean(outside_BT, counts_BT, denominator),
            "approximate_kl": masked_mean(torch.expm1(log_ratio_BT) - log_ratio_BT, counts_BT, denominator),
            "ratio_mean": masked_mean(ratio_BT, counts_BT, denominator),
            "ratio_max": zero_elsewhere(ratio_BT, counts_BT).max(),
        }
    return masked_mean(loss_BT, counts_BT, denominator), diagnostics


def value_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    is_live_BT: Tensor,
    *,
    clip_value: float = 0.2,
    denominator: float | None = None,
    mask_padding: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Half the squared error of the values, the worse of the plain and the clipped one.

        L = 1/2 mean max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)
        (OpenAI baselines `ppo2`; AlpacaFarm `rl/ppo_trainer.py`)

    Args:
        values_BT: of the value model that learns, before token t.
        old_values_BT: of the value model when the rollout was made.
        returns_BT: from `gae.advantages`.
        clip_value: c, above 0, in units of reward.
        is_live_BT, denominator, mask_padding: as in `policy_loss`.

    Returns:
        (loss, diagnostics): scalar loss, not yet times the value coefficient; "value_clip_fraction", "value_error"
        (mean of |V - R|): shares that add up over microbatches.

    Raises:
        ValueError: if the shapes differ, the mask is not bool, or clip_value is not above 0.
    """
    require_same_shape(
        2, values_BT=values_BT, old_values_BT=old_values_BT, returns_BT=returns_BT, is_live_BT=is_live_BT
    )
    if not clip_value > 0:
        raise ValueError(f"clip_value must be above 0, got {clip_value}")
    counts_BT = counted(is_live_BT, mask_padding)
    values_BT = zero_elsewhere(values_BT, counts_BT)
    old_BT = zero_elsewhere(old_values_BT.detach(), counts_BT)
    returns_BT = zero_elsewhere(returns_BT.detach(), counts_BT)
    clipped_BT = torch.minimum(torch.maximum(values_BT, old_BT - clip_value), old_BT + clip_value)
    error_BT = torch.maximum((values_BT - returns_BT).square(), (clipped_BT - returns_BT).square())
    with torch.no_grad():
        diagnostics = {
            "value_clip_fraction": masked_mean((values_BT - old_BT).abs() > clip_value, counts_BT, denominator),
            "value_error": masked_mean((values_BT - returns_BT).abs(), counts_BT, denominator),
        }
    return 0.5 * masked_mean(error_BT, counts_BT, denominator), diagnostics


@torch.no_grad()
def explained_variance(values_BT: Tensor, returns_BT: Tensor, is_live_BT: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R) over the live tokens: 1 = perfect, 0 = as good as a constant. 0 when R is constant.

    Scalar float64, at most 1, without a lower bound.

    Raises:
        ValueError: if the shapes differ or the mask is not bool: 0/1 integers would be read as row numbers.
    """
    require_same_shape(2, values_BT=values_BT, returns_BT=returns_BT, is_live_BT=is_live_BT)
    require_bool(is_live_BT=is_live_BT)
    returns_N = returns_BT[is_live_BT].double()
    errors_N = returns_N - values_BT[is_live_BT].double()
    if returns_N.numel() == 0 or returns_N.var(correction=0) < 1e-16:
        return torch.zeros((), dtype=torch.float64, device=values_BT.device)
    return 1.0 - errors_N.var(correction=0) / returns_N.var(correction=0)
