"""Log-probabilities of given answers under a model.

The LM head reads the states before response tokens only, and no float32 copy of the logits is kept.

Shapes: R rows, L tokens of prompt and response, T response positions, N response tokens of all rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rlp_engine.distributed.world import world
from rlp_engine.models.inputs import accepts, model_inputs
from rlp_engine.models.response_rows import Rows, microbatches, pack

CHUNK = 8192  # tokens whose logits exist at a time: in float32, 8192 x 32k x 4 bytes = 1 GiB
_PLAIN_HEADS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def response_logprobs(model: PreTrainedModel, rows: Rows, temperature: float = 1.0, chunk: int = CHUNK) -> Tensor:
    """logprobs_RT, float32, nats: log pi(token t | all before it) at the temperature; padding gets 0.

    Args:
        temperature: divides the logits, as in sampling (METHOD 5.1, step 2).
        chunk: tokens whose logits are made at a time. Where there are more and gradients are wanted, the backward
            pass makes them again.
    """
    inputs = model_inputs(model, rows.ids_RL, rows.attention_RL)
    if has_plain_head(model):
        states_N = rows.before_N(model.base_model(**inputs, use_cache=False).last_hidden_state)
        head: Callable[[Tensor], Tensor] = model.get_output_embeddings()
    else:
        if accepts(type(model), "logits_to_keep"):  # spares the prompts that all rows have before their responses
            inputs["logits_to_keep"] = rows.ids_RL.shape[1] - int(rows.before_RT.min())
        logits_RLV = model(**inputs, use_cache=False).logits
        states_N = rows.before_N(logits_RLV, skipped=rows.ids_RL.shape[1] - logits_RLV.shape[1])
        head = nn.Identity()

    def logprobs(states: Tensor, tokens: Tensor) -> Tensor:
        return TokenLogprobs.apply(head(states), tokens, temperature)

    tokens_N = rows.tokens_N
    count = max(1, math.ceil(len(tokens_N) / chunk))
    if torch.is_grad_enabled():  # in training the ranks go through the layers together (ZeRO-3), the head too
        count = world().largest(count)
    parts = [
        logprobs(*part)
        if count == 1 or not torch.is_grad_enabled()
        else checkpoint(logprobs, *part, use_reentrant=False)
        for part in zip(states_N.tensor_split(count), tokens_N.tensor_split(count), strict=True)
    ]
    zeros_RT = torch.zeros(rows.live_RT.shape, device=states_N.device)
    return zeros_RT.masked_scatter(rows.live_RT, torch.cat(parts))


class TokenLogprobs(torch.autograd.Function):
    """logits (N, V) in any float dtype -> float32 log-softmax(logits / temperature) at one token a row.

    Keeps the logits as they are and N normalisers; the backward pass makes the gradient, softmax less one-hot, from
    them. Autograd's own way keeps a float32 copy of (N, V) and makes three more.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, token_N: Tensor, temperature: float) -> Tensor:
        scaled_NV = logits_NV.float() if temperature == 1.0 else logits_NV.float() / temperature
        normaliser_N1 = scaled_NV.logsumexp(dim=-1, keepdim=True)
        ctx.save_for_backward(logits_NV, token_N, normaliser_N1)
        ctx.temperature = temperature
        return (scaled_NV.gather(-1, token_N[:, None]) - normaliser_N1).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits_NV, token_N, normaliser_N1 = ctx.saved_tensors
        gradient_N1 = gradients[0][:, None] / ctx.temperature
        scaled_NV = logits_NV.float() if ctx.temperature == 1.0 else logits_NV.float() / ctx.temperature
        result_NV = (scaled_NV - normaliser_N1).exp_().mul_(-gradient_N1)
        result_NV.scatter_add_(-1, token_N[:, None], gradient_N1)
        return result_NV.to(logits_NV.dtype), None, None


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the model's logits are its output embedding of its last hidden state and nothing else.

    Found by trying, once a model: some soft-cap or scale their logits, and configs name that in many ways. Ask before
    a training engine takes the model: ranks must go through its layers together from then on.
    """
    if model not in _PLAIN_HEADS:
        _PLAIN_HEADS[model] = _try_plain_head(model)
    return _PLAIN_HEADS[model]


@torch.no_grad()
def _try_plain_head(model: PreTrainedModel) -> bool:
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    was_training = model.training
    model.eval()  # adapters may drop out
    try:
        ids_12 = torch.tensor([[0, min(1, head.weight.shape[0] - 1)]], device=head.weight.device)
        logits = model(input_ids=ids_12, use_cache=False).logits
        plain = head(model.base_model(input_ids=ids_12, use_cache=False).last_hidden_state)
    finally:
        model.train(was_training)
    return torch.allclose(logits.float(), plain.float(), rtol=1e-6, atol=1e-6)


def sequence_logprobs(
    model: PreTrainedModel,
    prompt_ids: Sequence[list[int]],
    response_ids: Sequence[list[int]],
    *,
    pad_id: int,
    rows: int,
    temperature: float = 1.0,
) -> list[float]:
    """log pi(response | prompt) of each row at the temperature, nats, in order; no gradient.

    Args:
        rows: sequences per forward pass, of the longest. Rows of like length go together; the numbers do not
            depend on it, up to the last bits of a float.
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
            logprobs_RT = response_logprobs(model, packed, temperature)
        for row, total in zip(group, logprobs_RT.double().sum(-1).tolist(), strict=True):
            sums[row] = total
    return sums
