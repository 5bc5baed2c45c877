"""One token a row from logits, by inverting the distribution at given uniforms.

`torch.multinomial` draws in the order of the rows, so a token would depend on its neighbours in the
batch. Here row r's token depends on its logits and on its own u alone. Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64  # tokens per block of the two-level search: one pass over V, then 64 numbers a row


def choose_tokens(logits_RV: Tensor, u_R: Tensor, *, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """The next token of every row and its log-probability.

    Args:
        logits_RV: as the model gives them, any float dtype.
        u_R: float64 in [0, 1). The token is the first whose cumulative probability exceeds u.
        temperature: divides the logits; 0 takes the likeliest token (the first of equals).
        top_p: keep the likeliest tokens until their sum reaches it; 1 keeps all.

    Returns:
        tokens_R (int64) and logprobs_R (float32, nats): log-softmax at the temperature (1 for
        temperature 0), before top_p.
    """
    if temperature == 0.0:
        logits_RV = logits_RV.float()
        tokens_R = logits_RV.argmax(dim=-1)
        return tokens_R, logits_RV.gather(-1, tokens_R[:, None]).squeeze(-1) - logits_RV.logsumexp(dim=-1)
    scaled_RV = logits_RV if temperature == 1.0 else logits_RV.float() / temperature
    probabilities_RV = scaled_RV.softmax(dim=-1, dtype=torch.float32)
    weights_RV = nucleus(probabilities_RV, top_p) if top_p < 1.0 else probabilities_RV
    tokens_R = invert(weights_RV, u_R)
    # The logarithm of one probability a row: no second pass over the vocabulary, and as exact as log-softmax.
    return tokens_R, probabilities_RV.gather(-1, tokens_R[:, None]).squeeze(-1).log()


def nucleus(probabilities_RV: Tensor, top_p: float) -> Tensor:
    """Probabilities with the unlikely tail at 0, not renormalised (Holtzman et al. 2020, arXiv:1904.09751).

    A token stays when the sum of all likelier ones is below `top_p`; of equals the lower id counts as
    likelier. The likeliest token always stays (top_p > 0).
    """
    sorted_RV, order_RV = probabilities_RV.sort(dim=-1, descending=True, stable=True)
    before_RV = sorted_RV.double().cumsum(dim=-1) - sorted_RV
    kept_RV = torch.where(before_RV < top_p, sorted_RV, 0.0)
    return torch.zeros_like(probabilities_RV).scatter_(-1, order_RV, kept_RV)


def invert(weights_RV: Tensor, u_R: Tensor) -> Tensor:
    """First token whose cumulative weight exceeds u times the row's sum; a weight of 0 is never chosen.

    The search goes by blocks of tokens first, so the vocabulary is read once. A block is summed in float32, where
    64 numbers lose no more than their last bits; running sums are float64.
    """
    rows, size = weights_RV.shape
    padding = -size % BLOCK
    if padding:
        weights_RV = torch.nn.functional.pad(weights_RV, (0, padding))
    blocks_RNK = weights_RV.view(rows, -1, BLOCK)
    upto_RN = blocks_RNK.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    target_R1 = (u_R.to(upto_RN) * upto_RN[:, -1])[:, None]
    block_R1 = _first_above(upto_RN, target_R1)
    before_R1 = torch.where(block_R1 > 0, upto_RN.gather(-1, (block_R1 - 1).clamp(min=0)), 0.0)
    inside_RK = blocks_RNK[torch.arange(rows, device=block_R1.device), block_R1.squeeze(-1)].double().cumsum(dim=-1)
    token_R1 = block_R1 * BLOCK + _first_above(inside_RK, target_R1 - before_R1)
    return token_R1.squeeze(-1)


def _first_above(upto_RN: Tensor, target_R1: Tensor) -> Tensor:
    """Index of the first running sum above the target, and never past the last one that grew.

    Rounding can put the target at the very end; the argmax (the first of equals) is the last entry
    with a weight above 0.
    """
    return torch.minimum((upto_RN <= target_R1).sum(dim=-1, keepdim=True), upto_RN.argmax(dim=-1, keepdim=True))
