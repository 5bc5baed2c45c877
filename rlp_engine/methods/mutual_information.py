"""Bounds on mutual information from a matrix of critic scores, and the symmetrised KL of two Gaussians.

Shapes: B = rows of a batch, K = width of z. `scores_BB[i, j]` = T(left_i, right_j): the diagonal holds the
positives; `is_negative_BB` says which of the others are negatives (True = counts).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rlp_engine.methods.checks import at_least_float32, require_bool, require_same_shape

NegativeScheme = Literal["off-diagonal", "roll"]

LARGEST_EXPONENT = 700.0  # exp of it is finite in float64


def negative_pairs(
    group_B: Tensor,
    scheme: NegativeScheme = "off-diagonal",
    *,
    right_group_B: Tensor | None = None,
    stratum_B: Tensor | None = None,
) -> Tensor:
    """Which pairs (left_i, right_j) are negatives.

    Args:
        group_B: integer id of what each left row is about: its instruction's text. A left and a right row of the same
            id are positives of each other, so they are never negatives (METHOD 2.3). Nor is the diagonal.
        scheme: "off-diagonal": every i != j, B(B-1) of them (Hjelm et al. 2018, DIM); "roll": i = j-1 mod B,
            B of them (Multi-View Information Bottleneck code).
        right_group_B: the ids of the right rows, where they are others than the left ones'.
        stratum_B: integer id; with it only rows of one stratum are negatives of each other. The bound is then about
            the information that the views share given the stratum.

    Returns:
        (B, B) bool.

    Raises:
        ValueError: if no negative is left: one row, or one instruction in the whole batch.
    """
    right_group_B = group_B if right_group_B is None else right_group_B
    for ids_B in (group_B, right_group_B, *(() if stratum_B is None else (stratum_B,))):
        if ids_B.ndim != 1 or ids_B.is_floating_point() or ids_B.shape != group_B.shape:
            raise ValueError(f"want (B,) integer ids, got {tuple(ids_B.shape)} {ids_B.dtype}")
    is_negative_BB = group_B[:, None] != right_group_B[None, :]
    is_negative_BB.fill_diagonal_(False)
    if stratum_B is not None:
        is_negative_BB = is_negative_BB & (stratum_B[:, None] == stratum_B[None, :])
    if scheme == "roll":
        right_B = torch.arange(group_B.numel(), device=group_B.device)
        is_neighbour_BB = torch.zeros_like(is_negative_BB)
        is_neighbour_BB[right_B.roll(1), right_B] = True
        is_negative_BB = is_negative_BB & is_neighbour_BB
    elif scheme != "off-diagonal":
        raise ValueError(f"unknown scheme {scheme!r}: off-diagonal or roll")
    if not bool(is_negative_BB.any()):
        raise ValueError(f"no negatives: the batch of {group_B.numel()} rows needs two different instructions")
    return is_negative_BB


def jensen_shannon_bound(scores_BB: Tensor, is_negative_BB: Tensor) -> Tensor:
    """J = mean(-softplus(-T+)) - mean(softplus(T-)), to be maximised.

    (Hjelm et al. 2018, arXiv:1808.06670, eq. 4.) J is never above 0; J + 2 ln 2 is a lower bound of twice the
    Jensen-Shannon divergence between p(left, right) and p(left)p(right). It is *not* mutual information in nats,
    it only ranks like it. A critic that says 0 everywhere gives -2 ln 2 = -1.386.

    Raises:
        ValueError: if the matrices are not square and equal in shape, or there is no negative.
    """
    positives_B, negatives_N = _split(scores_BB, is_negative_BB)
    return -F.softplus(-positives_B).mean() - F.softplus(negatives_N).mean()


@torch.no_grad()
def nwj_bound(scores_BB: Tensor, is_negative_BB: Tensor) -> Tensor:
    """mean(T+) + 1 - mean(exp(T-)): a lower bound of the mutual information in nats, of high variance.

    (Nguyen, Wainwright, Jordan 2010; the formula of the Multi-View Information Bottleneck code.) For logs only: it
    carries no gradient. Scalar float64, finite: the exponent is held at 700.

    Raises:
        ValueError: as `jensen_shannon_bound`.
    """
    positives_B, negatives_N = _split(scores_BB, is_negative_BB)
    exponents_N = negatives_N.double().clamp(max=LARGEST_EXPONENT)
    return positives_B.double().mean() + 1.0 - exponents_N.exp().mean()


def info_nce_loss(similarities_BB: Tensor, is_negative_BB: Tensor) -> Tensor:
    """Symmetric InfoNCE: the mean of both directions' -log softmax at the positive, nats.

    (van den Oord et al. 2018, arXiv:1807.03748, eq. 4.) Similarities come already divided by the temperature. ln B
    for uninformative scores; pairs that are neither positive nor negative are left out of the denominators, and
    then ln B - loss is no longer exactly a bound.

    Raises:
        ValueError: if the matrices are not square and equal in shape, or there is no negative.
    """
    _split(similarities_BB, is_negative_BB)
    takes_part_BB = is_negative_BB | torch.eye(len(is_negative_BB), dtype=torch.bool, device=is_negative_BB.device)
    logits_BB = at_least_float32(similarities_BB).masked_fill(~takes_part_BB, -math.inf)
    forward_B = -F.log_softmax(logits_BB, dim=1).diagonal()
    backward_B = -F.log_softmax(logits_BB, dim=0).diagonal()
    return 0.5 * (forward_B.mean() + backward_B.mean())


def symmetrised_kl(mu1_BK: Tensor, sigma1_BK: Tensor, mu2_BK: Tensor, sigma2_BK: Tensor) -> Tensor:
    """Mean over the batch of (KL(p1||p2) + KL(p2||p1)) / 2 of diagonal Gaussians, summed over K. Nats, >= 0.

        1/4 sum_k [ (s1/s2 - s2/s1)^2 + ((m1 - m2)/s1)^2 + ((m1 - m2)/s2)^2 ]
        (D_SKL of Federici et al. 2020, arXiv:2002.07017, in closed form: its log terms cancel. METHOD 2.2)

    Args:
        sigma1_BK, sigma2_BK: standard deviations, above 0 (not variances, not logarithms). The gradient with
            respect to a sigma grows like (m1 - m2)^2 / sigma^3.

    Raises:
        ValueError: if the four shapes differ.
    """
    mu1_BK, sigma1_BK, mu2_BK, sigma2_BK = _gaussians(mu1_BK, sigma1_BK, mu2_BK, sigma2_BK)
    gap_BK = mu1_BK - mu2_BK
    spread_BK = (sigma1_BK / sigma2_BK - sigma2_BK / sigma1_BK).square()
    return 0.25 * (spread_BK + (gap_BK / sigma1_BK).square() + (gap_BK / sigma2_BK).square()).sum(1).mean()


def symmetrised_kl_sample(
    mu1_BK: Tensor, sigma1_BK: Tensor, z1_BK: Tensor, mu2_BK: Tensor, sigma2_BK: Tensor, z2_BK: Tensor
) -> Tensor:
    """One-sample estimate of `symmetrised_kl`: same expectation, noisier, can be negative. Nats.

    mean_i (log p1(z1) - log p2(z1) + log p2(z2) - log p1(z2)) / 2,   z1 ~ p1, z2 ~ p2
    (Multi-View Information Bottleneck code; written as differences of squares, because the log terms cancel)

    Raises:
        ValueError: if the six shapes differ.
    """
    mu1_BK, sigma1_BK, mu2_BK, sigma2_BK = _gaussians(mu1_BK, sigma1_BK, mu2_BK, sigma2_BK)
    require_same_shape(2, mu1_BK=mu1_BK, z1_BK=z1_BK, z2_BK=z2_BK)
    z1_BK, z2_BK = at_least_float32(z1_BK), at_least_float32(z2_BK)
    under_p2_BK = ((z1_BK - mu2_BK) / sigma2_BK).square() - ((z2_BK - mu2_BK) / sigma2_BK).square()
    under_p1_BK = ((z2_BK - mu1_BK) / sigma1_BK).square() - ((z1_BK - mu1_BK) / sigma1_BK).square()
    return 0.25 * (under_p2_BK + under_p1_BK).sum(1).mean()


def _gaussians(mu1_BK: Tensor, sigma1_BK: Tensor, mu2_BK: Tensor, sigma2_BK: Tensor) -> tuple[Tensor, ...]:
    require_same_shape(2, mu1_BK=mu1_BK, sigma1_BK=sigma1_BK, mu2_BK=mu2_BK, sigma2_BK=sigma2_BK)
    return tuple(at_least_float32(values) for values in (mu1_BK, sigma1_BK, mu2_BK, sigma2_BK))


def _split(scores_BB: Tensor, is_negative_BB: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) positives and (N,) negatives of a square matrix, at least float32."""
    require_same_shape(2, scores_BB=scores_BB, is_negative_BB=is_negative_BB)
    require_bool(is_negative_BB=is_negative_BB)
    if scores_BB.shape[0] != scores_BB.shape[1]:
        raise ValueError(f"want a square matrix of scores, got {tuple(scores_BB.shape)}")
    if bool(is_negative_BB.diagonal().any()):
        raise ValueError("the diagonal holds the positives: none of it can be a negative")
    if not bool(is_negative_BB.any()):
        raise ValueError("no negatives: the bound would be about nothing")
    scores_BB = at_least_float32(scores_BB)
    return scores_BB.diagonal(), scores_BB[is_negative_BB]
