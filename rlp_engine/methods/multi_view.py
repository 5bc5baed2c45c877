"""UML: the multi-view loss over two policy samples of one instruction, and its ablations (METHOD 2).

Shapes: B = policy pairs in a microbatch, D = hidden width of the reward model, K = width of z. View i is (x, y_i)
read by the reward model; v_i is the hidden state its reward is read from. Only v carries a gradient to the model:
heads and critic are thrown away after training. All of it in float32, under autocast too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rlp_engine.methods.checks import require_same_shape
from rlp_engine.methods.multi_view_heads import Critic, ViewHeads
from rlp_engine.methods.mutual_information import (
    info_nce_loss,
    jensen_shannon_bound,
    nwj_bound,
    symmetrised_kl,
    symmetrised_kl_sample,
)

MultiViewKind = Literal["uml", "mvi", "infomax", "cl"]

UNINFORMATIVE_J = -2.0 * math.log(2.0)  # of a critic that says 0 everywhere

# Where our runs parted (SANDBOX.md lesson 4): collapsed ones stayed at J = -1.386 with SKL near .001, live ones came
# to J near -0.5 with SKL near 0.15.
COLLAPSED_J_MARGIN = 0.05
COLLAPSED_SKL = 0.01
UNCOMPRESSED_J = -0.05
UNCOMPRESSED_SKL = 10.0


def multi_view_loss(
    kind: MultiViewKind,
    heads: ViewHeads,
    critic: Critic | None,
    v1_BD: Tensor,
    v2_BD: Tensor,
    is_negative_BB: Tensor,
    noise1_BK: Tensor,
    noise2_BK: Tensor,
    beta: float,
    *,
    skl: Literal["closed-form", "sample"] = "closed-form",
    temperature: float = 0.1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_M of one microbatch, to be added to the Bradley-Terry loss with weight lambda.

        uml:     -J(z1; z2) + beta * SKL      (Lang et al. 2024, arXiv:2403.19279, where beta = 1, from
                                               Federici et al. 2020, arXiv:2002.07017; METHOD 2.2)
        mvi:     -J(z1; z2)
        infomax: -1/2 [J(v1; z1) + J(v2; z2)]; v enters the critic detached, z keeps its gradient
        cl:      symmetric InfoNCE of mu / |mu| at `temperature`; the paper cites SwAV, this is its plain form

    with z = mu + sigma * noise and J the Jensen-Shannon bound.

    Args:
        kind: which of the four.
        heads, critic: shared by the views. The critic takes (K, K), or (D, K) for infomax; cl needs none.
        v1_BD, v2_BD: hidden states of the two views, row i of both a pair. Detached by the caller
            while heads and critic warm up, and not otherwise: the gradient into v is all that UML does to the reward.
        is_negative_BB: True where view 1 of row i and view 2 of row j are negatives (`negative_pairs`).
        noise1_BK, noise2_BK: standard normal, fresh and independent for each view and step. cl does not read them.
        beta: weight of SKL, >= 0; read by uml only.
        skl: exact, or by one sample (Multi-View Information Bottleneck code).
        temperature: tau of cl.

    Returns:
        (loss, diagnostics). Diagnostics carry no gradient: "jsd" (J), "nwj" (nats), "skl" (exact, nats), "mean_sigma",
        "min_sigma", "beta", "v_within_share", "mu_within_share" (`within_share`), "collapsed" and "uncompressed"
        (0 or 1, `health_signs`). cl has "info_nce" in place of the J, nwj, sigma and sign entries.

    Raises:
        ValueError: if shapes do not fit, there is no negative, a critic is missing, or beta is negative.
    """
    require_same_shape(2, v1_BD=v1_BD, v2_BD=v2_BD)
    if is_negative_BB.shape != (len(v1_BD), len(v1_BD)):
        raise ValueError(f"want a negative or not for {len(v1_BD)} x {len(v1_BD)}, got {tuple(is_negative_BB.shape)}")
    if kind not in ("uml", "mvi", "infomax", "cl") or skl not in ("closed-form", "sample"):
        raise ValueError(f"unknown kind {kind!r} (uml, mvi, infomax, cl) or skl {skl!r} (closed-form, sample)")
    if not beta >= 0:
        raise ValueError(f"beta must be >= 0, got {beta}")
    mu1_BK, sigma1_BK = heads(v1_BD)
    mu2_BK, sigma2_BK = heads(v2_BD)
    if kind == "cl":
        loss = _contrastive(mu1_BK, mu2_BK, is_negative_BB, temperature)
        return loss, {"info_nce": loss.detach(), **_shares(v1_BD, v2_BD, mu1_BK, mu2_BK)}
    if critic is None:
        raise ValueError(f"{kind!r} needs a critic")
    z1_BK = reparameterised(mu1_BK, sigma1_BK, noise1_BK)
    z2_BK = reparameterised(mu2_BK, sigma2_BK, noise2_BK)
    if kind == "infomax":
        scores = [critic(v1_BD.detach(), z1_BK), critic(v2_BD.detach(), z2_BK)]
    else:
        scores = [critic(z1_BK, z2_BK)]
    jsd = torch.stack([jensen_shannon_bound(scores_BB, is_negative_BB) for scores_BB in scores]).mean()
    loss = -jsd
    exact_skl = symmetrised_kl(mu1_BK, sigma1_BK, mu2_BK, sigma2_BK)
    if kind == "uml":
        sampled = symmetrised_kl_sample(mu1_BK, sigma1_BK, z1_BK, mu2_BK, sigma2_BK, z2_BK)
        loss = loss + beta * (exact_skl if skl == "closed-form" else sampled)
    with torch.no_grad():
        sigma = torch.cat([sigma1_BK, sigma2_BK])
        diagnostics = {
            "jsd": jsd.detach(),
            "nwj": torch.stack([nwj_bound(scores_BB, is_negative_BB) for scores_BB in scores]).mean(),
            "skl": exact_skl.detach(),
            "mean_sigma": sigma.mean(),
            "min_sigma": sigma.min(),
            "beta": torch.tensor(float(beta)),
            **_shares(v1_BD, v2_BD, mu1_BK, mu2_BK),
            **health_signs(jsd.detach(), exact_skl.detach()),
        }
    return loss, diagnostics


def reparameterised(mu_BK: Tensor, sigma_BK: Tensor, noise_BK: Tensor) -> Tensor:
    """z = mu + sigma * noise (Kingma and Welling 2014, arXiv:1312.6114, section 2.4); all (B, K), noise ~ N(0, I).

    Raises:
        ValueError: if the shapes differ.
    """
    require_same_shape(2, mu_BK=mu_BK, sigma_BK=sigma_BK, noise_BK=noise_BK)
    return mu_BK + sigma_BK * noise_BK.to(mu_BK.dtype)


def beta_at(step: int, total: int, start: float = 1e-3, end: float = 1.0, ramp: float = 0.5) -> float:
    """Weight of SKL at a step of joint training.

        exp((1-u) ln start + u ln end),   u = (step - 1) / (ramp * total), at most 1
        (Multi-View Information Bottleneck code; the lengths are ours, METHOD 7.15)

    Args:
        step: from 1.
        total: steps of joint training, the heads' warm-up not among them.
        start: above 0.
        end: from 0; the way to 0, which has no logarithm, is linear.
        ramp: share of the steps the way takes; 0 = `end` throughout, as the paper writes it.

    Raises:
        ValueError: if a number is out of its range.
    """
    if not (1 <= step <= total and start > 0 and end >= 0 and 0 <= ramp <= 1):
        raise ValueError(f"out of range: step {step} of {total}, start {start}, end {end}, ramp {ramp}")
    if ramp == 0 or step - 1 >= ramp * total:
        return end
    u = (step - 1) / (ramp * total)
    if end == 0:
        return (1 - u) * start
    return math.exp((1 - u) * math.log(start) + u * math.log(end))


def health_signs(jsd: Tensor, skl: Tensor) -> dict[str, Tensor]:
    """The two ways UML fails (METHOD 2.4), 1 = seen. Smooth the numbers over steps before believing them.

    "collapsed": J within 0.05 of -2 ln 2 and SKL below 0.01: mu says nothing about x; beta too large, or no warm-up.
    "uncompressed": J above -0.05 and SKL above 10: the views were not drawn together; beta too small.
    """
    collapsed = (jsd < UNINFORMATIVE_J + COLLAPSED_J_MARGIN) & (skl < COLLAPSED_SKL)
    uncompressed = (jsd > UNCOMPRESSED_J) & (skl > UNCOMPRESSED_SKL)
    return {"collapsed": collapsed.float(), "uncompressed": uncompressed.float()}


@torch.no_grad()
def within_share(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    """Share of the variance that depends on the response, not on the instruction: 0 to 1. Scalar float64.

    One-way random effects with two responses an instruction: within / (within + between), with within = MS_within and
    between = max(0, (MS_between - MS_within) / 2). Near 0 the views hold x and have forgotten y, which is what the
    reward needs (SANDBOX.md lesson 4). 0 when nothing varies, or for one row.

    Raises:
        ValueError: if the shapes differ, or there is no row.
    """
    require_same_shape(2, first_BD=first_BD, second_BD=second_BD)
    rows = first_BD.shape[0]
    if rows == 0:
        raise ValueError("no rows: the share of no variance is not a number")
    first_BD, second_BD = first_BD.double(), second_BD.double()
    within = (first_BD - second_BD).square().sum() / (2 * rows)
    middle_BD = (first_BD + second_BD) / 2
    mean_square_between = 2 * (middle_BD - middle_BD.mean(0)).square().sum() / max(1, rows - 1)
    between = ((mean_square_between - within) / 2).clamp(min=0.0)
    if rows < 2 or not bool(within + between > 0):
        return torch.zeros_like(within)
    return within / (within + between)


def choose_views(texts: Sequence[str], draw: float) -> tuple[int, int] | None:
    """Ordered pair of responses that serve as views: uniform over the pairs whose texts differ (METHOD 2.3).

    Two equal texts would be a view pair without anything to agree on. None when all texts are equal: skip the prompt.

    Args:
        texts: the n responses of one instruction.
        draw: uniform in [0, 1).

    Raises:
        ValueError: if `draw` is outside [0, 1).
    """
    if not 0.0 <= draw < 1.0:
        raise ValueError(f"draw must be in [0, 1), got {draw}")
    count = len(texts)
    pairs = [(i, j) for i in range(count) for j in range(count) if texts[i] != texts[j]]
    return pairs[int(draw * len(pairs))] if pairs else None


def _contrastive(mu1_BK: Tensor, mu2_BK: Tensor, is_negative_BB: Tensor, temperature: float) -> Tensor:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    with torch.autocast(mu1_BK.device.type, enabled=False):
        unit1_BK, unit2_BK = F.normalize(mu1_BK, dim=1), F.normalize(mu2_BK, dim=1)
        return info_nce_loss(unit1_BK @ unit2_BK.T / temperature, is_negative_BB)


def _shares(v1_BD: Tensor, v2_BD: Tensor, mu1_BK: Tensor, mu2_BK: Tensor) -> dict[str, Tensor]:
    return {"v_within_share": within_share(v1_BD, v2_BD), "mu_within_share": within_share(mu1_BK, mu2_BK)}
