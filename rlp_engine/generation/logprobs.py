"""Log-probabilities of given answers under a model.

Shapes: B rows, L tokens of prompt and response, T response tokens, N = B * T, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rlp_engine.models.inputs import accepts, model_inputs
from rlp_engine.training.rows import microbatches, pack

CHUNK = 8192  # tokens whose logits are held in float32 at a time: 8192 x 32k x 4 bytes = 1 GiB


def response_logprobs(
    model: PreTrainedModel,
    ids_BL: Tensor,
    attention_BL: Tensor,
    response_start: int,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> Tensor:
    """logprobs_BT, float32, nats: log pi(token t | all before it) at the temperature; padding gets 0.

    Args:
        ids_BL: prompts padded on the left, responses on the right, so that all begin in one column.
        attention_BL: True = counts. Padding may hold any id.
        response_start: that column, >= 1; T = L - response_start.
        temperature: divides the logits, as in sampling (METHOD 5.1, step 2).
        chunk: tokens per float32 log-softmax. With gradients it is computed again in the backward pass
            instead of being kept.
    """
    length = ids_BL.shape[1]
    if not 1 <= response_start < length:
        raise ValueError(
            f"want 1 <= response_start < {length}, got {response_start}: a token is predicted by one before"
        )
    inputs = model_inputs(model, ids_BL, attention_BL)
    if accepts(type(model), "logits_to_keep"):  # the LM head reads only the positions that predict a response token
        inputs["logits_to_keep"] = length - response_start + 1
    logits_BTV = model(**inputs, use_cache=False).logits[:, -(length - response_start + 1) : -1]
    tokens_BT = ids_BL[:, response_start:]
    flat_NV, flat_N = logits_BTV.flatten(0, 1), tokens_BT.flatten()
    parts = []
    for start in range(0, len(flat_N), chunk):
        part = (flat_NV[start : start + chunk], flat_N[start : start + chunk], temperature)
        parts.append(checkpoint(_logprobs, *part, use_reentrant=False) if flat_NV.requires_grad else _logprobs(*part))
    return torch.where(attention_BL[:, response_start:].bool(), torch.cat(parts).view(tokens_BT.shape), 0.0)


def _logprobs(logits_NV: Tensor, token_N: Tensor, temperature: float) -> Tensor:
    scaled_NV = logits_NV.float() / temperature
    return scaled_NV.gather(-1, token_N[:, None]).squeeze(-1) - scaled_NV.logsumexp(dim=-1)


def sequence_logprobs(
    model: PreTrainedModel,
    prompt_ids: Sequence[list[int]],
    response_ids: Sequence[list[int]],
    *,
    pad_id: int,
    rows: int,
) -> list[float]:
    """log pi(response | prompt) of each row at T = 1, nats, in order; no gradient.

    Args:
        rows: sequences per forward pass. Rows of like length go together; the numbers do not depend on it, up to
            the last bits of a float.
    """
    sums = [0.0] * len(response_ids)
    for group in microbatches(range(len(response_ids)), prompt_ids, response_ids, rows):
        packed = pack(
            [prompt_ids[row] for row in group],
            [response_ids[row] for row in group],
            pad_id=pad_id,
            device=model.device,
        )
        with torch.no_grad():
            logprobs_RT = response_logprobs(model, packed.ids_RL, packed.attention_RL, packed.start)
        for row, total in zip(group, logprobs_RT.double().sum(-1).tolist(), strict=True):
            sums[row] = total
    return sums
