"""Do answers come from this model, at this temperature and nucleus? A test that needs their tokens alone.

Under the distribution q_t that a token is drawn from, log q_t(token) + H(q_t) has mean 0 given all before it, and
variance Var_t = sum q_t (log q_t)^2 - H(q_t)^2. The sum over all tokens of all answers, divided by the root of the
summed variances, is therefore about standard normal (a martingale), however long the answers are. Another model
makes it fall; greedy decoding, a lower temperature or a top-k make it rise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlp_engine.generation.sampling import nucleus
from rlp_engine.models.inputs import accepts

LIKELIEST = 0.01  # temperature that stands for 0: ties in the last bits of the logits are no evidence
FLOOR = -20.0  # nats: a token that cannot be drawn counts as much
VARIANCE_FLOOR = 1e-3  # a token, nats squared: what another machine's rounding may do where the model is sure
CHUNK = 128  # positions whose distributions exist at a time
MAX_Z = 6.0  # one in 10^9 by chance
MAX_MEAN = 0.03  # nats a token: what rounding may do however many are summed; bfloat16 made 0.01 of a random model


@dataclass
class Evidence:
    """Sums over the tokens seen so far."""

    surprise: float = 0.0  # of log q(token) + H(q), nats
    variance: float = 0.0
    tokens: int = 0

    def add(self, more: Evidence) -> None:
        self.surprise += more.surprise
        self.variance += more.variance
        self.tokens += more.tokens

    @property
    def z(self) -> float:
        """About standard normal when the answers are drawn as claimed."""
        return self.surprise / math.sqrt(self.variance + VARIANCE_FLOOR * max(1, self.tokens))

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.surprise / max(1, self.tokens)

    @property
    def speaks_against(self) -> bool:
        """Beyond chance, and beyond what rounding does."""
        return abs(self.z) > MAX_Z and abs(self.mean) > MAX_MEAN


@torch.no_grad()
def evidence(
    model: PreTrainedModel,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    *,
    temperature: float,
    top_p: float,
) -> Evidence:
    """Of one answer. Temperature 0 is the likeliest token."""
    ids_1L = torch.tensor([[*prompt_ids, *response_ids]], device=model.device)
    kept = len(response_ids) + 1
    more = {"logits_to_keep": kept} if accepts(type(model), "logits_to_keep") else {}
    logits_TV = model(input_ids=ids_1L, use_cache=False, **more).logits[0, -kept:-1]
    token_T = ids_1L[0, len(prompt_ids) :]
    total = Evidence(tokens=len(response_ids))
    for logits, tokens in zip(logits_TV.split(CHUNK), token_T.split(CHUNK), strict=True):
        surprise_T, variance_T = _moments(logits, tokens, temperature or LIKELIEST, top_p)
        total.surprise += float(surprise_T.double().sum())
        total.variance += float(variance_T.double().sum())
    return total


def _moments(logits_TV: Tensor, token_T: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """log q(token) + H(q) and the variance of log q, a position."""
    q_TV = (logits_TV.float() / temperature).softmax(-1)
    if top_p < 1.0:
        q_TV = nucleus(q_TV, top_p)
        q_TV = q_TV / q_TV.sum(-1, keepdim=True)
    log_TV = q_TV.log().clamp(min=FLOOR)
    mean_T = (q_TV * log_TV).sum(-1)  # -H(q)
    variance_T = ((q_TV * log_TV.square()).sum(-1) - mean_T.square()).clamp(min=0.0)
    return log_TV.gather(-1, token_T[:, None]).squeeze(-1) - mean_T, variance_T
