"""Answers from a causal language model: prefill once a prompt, expand its cache, drop finished rows.

Built for many answers to one prompt. The randomness of every token is keyed by its request and position,
so neither the batch nor the order of the requests changes what is drawn, up to ties in the last bits of
the logits. Shapes: P prompts, R live rows, L cached tokens, T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlp_engine.data.batching import pad
from rlp_engine.errors import ModelError
from rlp_engine.generation.sampling import choose_tokens
from rlp_engine.models.inputs import accepts, model_inputs, position_limit
from rlp_engine.randomness import KeyPart, uniforms


@dataclass(frozen=True, slots=True)
class Request:
    """One answer wanted. Requests for the same prompt, next to each other, share its prefill."""

    prompt_ids: Sequence[int]  # BOS included where the tokenizer wants one
    key: tuple[KeyPart, ...]  # (seed, round, stage, visit, prompt id, draw): names its randomness


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when an answer ends."""

    temperature: float  # 0 = the likeliest token
    top_p: float
    max_new_tokens: int  # the EOS included
    eos_ids: Sequence[int]
    pad_id: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `logprob` is the sum over its tokens, in nats, at the temperature and before top_p."""

    token_ids: list[int]  # the EOS included when there is one
    finish_reason: str  # "stop" (EOS) or "length"
    logprob: float


class Stop(Protocol):
    """Raises when someone asked the run to stop (rlp_engine/run/signals.py)."""

    def check(self) -> None: ...


Progress = Callable[[int, int], None]  # (answers done, answers wanted)


def generate(
    model: PreTrainedModel,
    requests: Sequence[Request],
    settings: Sampling,
    *,
    rows: int,
    stop: Stop | None = None,
    on_progress: Progress | None = None,
) -> list[Completion]:
    """An answer to every request, in the order of the requests.

    Args:
        rows: answers decoded side by side; more is faster until memory ends, and changes nothing else.
        stop: asked between tokens; what it raises ends the call and loses the answers so far.

    Raises:
        ModelError: if a prompt and `max_new_tokens` do not fit in the model's positions.
    """
    _check_fit(model, requests, settings)
    completions: list[Completion | None] = [None] * len(requests)
    done = 0
    was_training = model.training
    model.eval()
    try:
        # no_grad, not inference_mode: buffers that a model makes here (rotary tables) must work in training later.
        with torch.no_grad():
            for wave in waves(requests, rows):
                for index, completion in _decode(model, requests, wave, settings, stop):
                    completions[index] = completion
                    done += 1
                if on_progress is not None:
                    on_progress(done, len(requests))
    finally:
        model.train(was_training)
    return completions


def waves(requests: Sequence[Request], rows: int) -> list[list[list[int]]]:
    """Request indices as waves of at most `rows`, each a list of groups that share a prompt.

    Groups are sorted by prompt length, so a wave pads little. A group that does not fit in the space
    left is cut, and its prompt prefilled again in the next wave.
    """
    groups: list[list[int]] = []
    for index, request in enumerate(requests):
        if groups and list(requests[groups[-1][0]].prompt_ids) == list(request.prompt_ids):
            groups[-1].append(index)
        else:
            groups.append([index])
    groups.sort(key=lambda group: -len(requests[group[0]].prompt_ids))
    result: list[list[list[int]]] = [[]]
    space = rows
    for group in groups:
        while group:
            if space == 0:
                result.append([])
                space = rows
            part, group = group[:space], group[space:]
            result[-1].append(part)
            space -= len(part)
    return [wave for wave in result if wave]


@dataclass
class _Rows:
    """The live rows of a wave; row r of every field is the same answer."""

    index_R: Tensor  # place in the wave
    attention_RL: Tensor  # over the cache, True = counts
    logits_RV: Tensor  # of the next token
    cache: Any

    def keep(self, kept: Tensor) -> None:
        """Drop all other rows, from the cache too: finished answers cost nothing."""
        self.index_R = self.index_R[kept]
        self.attention_RL = self.attention_RL[kept]
        self.logits_RV = self.logits_RV[kept]
        self.cache.reorder_cache(kept)


def _decode(
    model: PreTrainedModel, requests: Sequence[Request], wave: list[list[int]], settings: Sampling, stop: Stop | None
) -> Iterator[tuple[int, Completion]]:
    """(request index, completion) of all answers of one wave."""
    indices = [index for group in wave for index in group]
    device = next(model.parameters()).device
    u_RT = np.stack([uniforms(settings.max_new_tokens, *requests[index].key) for index in indices])
    u_RT = torch.from_numpy(u_RT).to(device)
    eos = torch.tensor(list(settings.eos_ids), dtype=torch.long, device=device)
    tokens_RT = torch.full((len(indices), settings.max_new_tokens), settings.pad_id, device=device)
    lengths_R = torch.full((len(indices),), settings.max_new_tokens, device=device)
    stopped_R = torch.zeros(len(indices), dtype=torch.bool, device=device)
    logprobs_R = torch.zeros(len(indices), dtype=torch.float64, device=device)

    live = _prefill(model, [requests[group[0]].prompt_ids for group in wave], [len(group) for group in wave], settings)
    for step in range(settings.max_new_tokens):
        if stop is not None:
            stop.check()
        u_R = u_RT[live.index_R, step]
        token_R, logprob_R = choose_tokens(live.logits_RV, u_R, temperature=settings.temperature, top_p=settings.top_p)
        ended_R = torch.isin(token_R, eos)
        tokens_RT[live.index_R, step] = token_R
        logprobs_R[live.index_R] += logprob_R.double()
        ended_here = live.index_R[ended_R]
        lengths_R[ended_here], stopped_R[ended_here] = step + 1, True
        if step + 1 == settings.max_new_tokens or bool(ended_R.all()):
            break
        if len(ended_here):
            kept = (~ended_R).nonzero().squeeze(-1)
            live.keep(kept)
            token_R = token_R[kept]
        _advance(model, live, token_R)
    rows = zip(indices, tokens_RT.tolist(), lengths_R.tolist(), stopped_R.tolist(), logprobs_R.tolist(), strict=True)
    for index, tokens, length, stopped, logprob in rows:
        yield index, Completion(tokens[:length], "stop" if stopped else "length", logprob)


def _prefill(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], copies: Sequence[int], settings: Sampling
) -> _Rows:
    """One forward pass over the prompts, then each one's cache copied for its answers.

    Left padding puts the last prompt token of every row in the last column.
    """
    device = next(model.parameters()).device
    ids_PL, attention_PL = pad(prompts, settings.pad_id, "left")
    ids_PL, attention_PL = ids_PL.to(device), attention_PL.to(device).bool()
    cache = DynamicCache(config=model.config)
    logits_PV = _last_logits(model, model_inputs(model, ids_PL, attention_PL), cache)
    prompt_of_R = torch.repeat_interleave(
        torch.arange(len(prompts), device=device), torch.tensor(list(copies), device=device)
    )
    cache.reorder_cache(prompt_of_R)
    return _Rows(
        torch.arange(len(prompt_of_R), device=device), attention_PL[prompt_of_R], logits_PV[prompt_of_R], cache
    )


def _advance(model: PreTrainedModel, live: _Rows, token_R: Tensor) -> None:
    """Feed one token a row; the logits of the next one take the place of the old."""
    one_R1 = torch.ones_like(token_R, dtype=torch.bool)[:, None]
    live.attention_RL = torch.cat([live.attention_RL, one_R1], dim=-1)
    inputs = model_inputs(model, token_R[:, None], one_R1) | {"attention_mask": live.attention_RL.long()}
    if "position_ids" in inputs:
        inputs["position_ids"] = live.attention_RL.sum(dim=-1, keepdim=True) - 1
    live.logits_RV = _last_logits(model, inputs, live.cache)


def _last_logits(model: PreTrainedModel, inputs: dict[str, Tensor], cache: DynamicCache) -> Tensor:
    if accepts(type(model), "logits_to_keep"):
        inputs = inputs | {"logits_to_keep": 1}
    return model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1]


def _check_fit(model: PreTrainedModel, requests: Sequence[Request], settings: Sampling) -> None:
    positions = position_limit(model)
    longest = max((len(request.prompt_ids) for request in requests), default=1)
    if any(not len(request.prompt_ids) for request in requests):
        raise ValueError("a prompt without a single token has nothing to go on from")
    if positions is not None and longest + settings.max_new_tokens > positions:
        raise ModelError(
            f"prompts of up to {longest} tokens and answers of {settings.max_new_tokens} do not fit in the model",
            found=f"max_position_embeddings = {positions}",
            mend=f"--set generation.max_new_tokens={max(1, positions - longest)}, or lower max_prompt_tokens",
        )
