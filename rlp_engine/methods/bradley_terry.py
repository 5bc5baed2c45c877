"""Bradley-Terry preference likelihood. Shapes: B = preference pairs in the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlp_engine.methods.checks import at_least_float32, require_same_shape


def bradley_terry_loss(
    chosen_B: Tensor, rejected_B: Tensor, weight_B: Tensor | None = None, denominator: float | None = None
) -> Tensor:
    """Negative log-probability that every chosen response beats its rejected partner.

        L = - sum_i w_i log sigmoid(r_i+ - r_i-) / sum_i w_i
        (Ouyang et al. 2022, arXiv:2203.02155, eq. 1; the weights w are ours, default 1)

    Args:
        chosen_B: rewards of the preferred responses, in reward-model units (unbounded).
        rejected_B: rewards of the other responses; row i is the same prompt as chosen_B[i].
        weight_B: weight of each pair, >= 0.
        denominator: the sum of the weights of the whole minibatch (the number of its pairs without weights): the
            losses of its microbatches then add up to the minibatch's mean. None = the weights given here.

    Returns:
        Scalar in nats, >= 0. ln 2 = 0.6931 means the model cannot tell the pair apart.

    Raises:
        ValueError: if the shapes differ or are not 1-D, the batch is empty, a weight is negative or not finite,
            or what is divided by is not above 0.
    """
    require_same_shape(1, chosen_B=chosen_B, rejected_B=rejected_B)
    if chosen_B.numel() == 0:
        raise ValueError("no pairs: the mean over none is not a number")
    # logsigmoid stays finite where log(sigmoid(x)) is -inf
    nll_B = -F.logsigmoid(at_least_float32(chosen_B) - at_least_float32(rejected_B))
    if weight_B is None:
        total, own = nll_B.sum(), float(nll_B.numel())
    else:
        require_same_shape(1, chosen_B=chosen_B, weight_B=weight_B)
        weight_B = at_least_float32(weight_B)
        if not bool(((weight_B >= 0) & weight_B.isfinite()).all()):
            raise ValueError("weights must be finite and >= 0")
        total, own = (weight_B * nll_B).sum(), float(weight_B.sum())
    divisor = own if denominator is None else denominator
    if not divisor > 0:
        raise ValueError(f"the weights must sum to more than 0, got {divisor}")
    return total / divisor


@torch.no_grad()
def pair_accuracy(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """Share of pairs whose chosen response has the higher reward; an exact tie counts 1/2.

    Differs from AlpacaFarm, where a tie counts as "the second wins" (METHOD 4.1).

    Raises:
        ValueError: if the shapes differ or are not 1-D, or the batch is empty.
    """
    require_same_shape(1, chosen_B=chosen_B, rejected_B=rejected_B)
    if chosen_B.numel() == 0:
        raise ValueError("no pairs: the share of none is not a number")
    margin_B = at_least_float32(chosen_B) - at_least_float32(rejected_B)
    return ((margin_B > 0).float() + 0.5 * (margin_B == 0).float()).mean()
