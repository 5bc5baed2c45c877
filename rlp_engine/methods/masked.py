"""Statistics over the entries that count. Shapes: B = sequences, T = response tokens.

`counts_BT` says which entries take part (True = counts); the others may hold anything, NaN too, and
come out as 0. METHOD 5.2 takes the live tokens; AlpacaFarm takes all positions, padding included:
`counted(is_live_BT, mask_padding=False)` is that. Sums run in float64, because a constant tensor must
have a standard deviation of 0, not 1e-8: whitening divides by it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlp_engine.methods.checks import at_least_float32, require_bool, require_same_shape

EPSILON = 1e-8  # AlpacaFarm's and TRL's, added to the standard deviation


def counted(is_live_BT: Tensor, mask_padding: bool) -> Tensor:
    """The entries that take part: live tokens, or every position as AlpacaFarm ran (METHOD 5.1, 7)."""
    require_bool(is_live_BT=is_live_BT)
    return is_live_BT if mask_padding else torch.ones_like(is_live_BT)


def zero_elsewhere(values: Tensor, counts: Tensor) -> Tensor:
    """The values that count, 0 elsewhere; at least float32.

    A selection, not a product: NaN * 0 is NaN, and so would be its gradient.

    Raises:
        ValueError: if the shapes differ or `counts` is not bool.
    """
    require_same_shape(values.ndim, values=values, counts=counts)
    require_bool(counts=counts)
    values = at_least_float32(values)
    return torch.where(counts, values, torch.zeros_like(values))


def masked_mean(values: Tensor, counts: Tensor, denominator: float | None = None) -> Tensor:
    """Sum of the entries that count, over their number or over `denominator`. Scalar.

    `denominator` is the number that counts in a whole minibatch: the shares of its microbatches then
    add up to the minibatch's mean, whatever their lengths. Nothing counts -> 0, with a gradient of 0.

    Raises:
        ValueError: if the shapes differ, `counts` is not bool, or `denominator` is not above 0.
    """
    if denominator is not None and not denominator > 0:
        raise ValueError(f"denominator must be above 0, got {denominator}")
    total = zero_elsewhere(values, counts).sum()
    return total / (counts.sum().clamp(min=1) if denominator is None else denominator)


def whiten(values: Tensor, counts: Tensor, keep_mean: bool = False) -> Tensor:
    """(x - mean) / (std + 1e-8), biased std, over the entries that count; 0 elsewhere. No gradient.

    `keep_mean=True` adds the mean back, as AlpacaFarm does to its rewards over *all* positions. Over live
    tokens only it adds mean * (1 - 1/std) to every token and so pays for length (METHOD 5.2): use `scale_only`.
    AlpacaFarm whitens per device; here it is whatever is given, which should be the whole rollout.

    Raises:
        ValueError: if the shapes differ or `counts` is not bool.
    """
    mean, std = _moments(values, counts)
    whitened = (values.detach().double() - mean) / (std + EPSILON) + (mean if keep_mean else 0.0)
    return zero_elsewhere(whitened.to(at_least_float32(values).dtype), counts)


def scale_only(values: Tensor, counts: Tensor) -> Tensor:
    """x / (std + 1e-8), biased std, over the entries that count; 0 elsewhere. No gradient (METHOD 5.2, ours).

    Entries that are all equal have no scale and stay as they are: dividing by 1e-8 would make a
    reward of 1 a hundred million.

    Raises:
        ValueError: if the shapes differ or `counts` is not bool.
    """
    _, std = _moments(values, counts)
    factor = torch.where(std > EPSILON, 1.0 / (std + EPSILON), torch.ones_like(std))
    return zero_elsewhere((values.detach().double() * factor).to(at_least_float32(values).dtype), counts)


def _moments(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased standard deviation of the entries that count, float64."""
    values = zero_elsewhere(values.detach().double(), counts)
    number = counts.sum().clamp(min=1)
    mean = values.sum() / number
    return mean, (zero_elsewhere(values - mean, counts).square().sum() / number).sqrt()
