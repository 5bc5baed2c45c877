"""Two ways to keep rows at work side by side: over buffers that are written in place, and transformers' plain cache.

`SharedDecoder` is the fast one: prompts stored once, rows that end make room for others at once. It asks for
plain causal attention (attention.can_share). `PlainDecoder` takes every causal language model.

Shapes: P prompts admitted, R rows, L columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_tensor
from transformers import DynamicCache, PreTrainedModel

from rlp_engine.data.batching import pad
from rlp_engine.generation.attention import DecodeCache, can_share, decode_attention
from rlp_engine.generation.cache import Cohort, RowBuffers, close_gaps, own_cohort, shared_cohort
from rlp_engine.models.inputs import accepts, model_inputs

PART_TOKENS = 512  # of a prefill, padding included: fewer leave a processor idle


class Decoder(Protocol):
    """Rows at work, in an order that `admit` adds to at the end and `drop` changes."""

    refills: bool  # whether rows can be admitted while others are at work

    def admit(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> Tensor:
        """Prefill; logits_RV of the first token of the new rows, `copies[p]` for prompt p, in order."""

    def advance(self, token_R: Tensor, position_R: Tensor) -> Tensor:
        """Feed one token a row, at its position in its sequence; logits_RV of the next one."""

    def drop(self, ended_R: Tensor) -> Tensor:
        """Work no more on those rows; order_R, the old row of every row that is left."""


def decoder_for(
    model: PreTrainedModel, *, rows: int, prompt_tokens: int, new_tokens: int, share: bool, pad_id: int
) -> Decoder:
    """The faster decoder that is right for this model.

    Args:
        share: prompts have several rows each, so that it pays to store them apart from the rows.
    """
    if can_share(model):
        return SharedDecoder(model, rows, 0 if share else prompt_tokens, new_tokens, pad_id)
    return PlainDecoder(model, pad_id)


class SharedDecoder:
    """Rows over buffers of rows x (own prompt + new tokens).

    Args:
        own_prompt_tokens: room for a prompt in every row; 0 = prompts are stored once, apart from the rows.
    """

    refills = True

    def __init__(self, model: PreTrainedModel, rows: int, own_prompt_tokens: int, new_tokens: int, pad_id: int) -> None:
        self.model, self.pad_id, self.share = model, pad_id, not own_prompt_tokens
        self.room = rows, own_prompt_tokens, new_tokens
        self.buffers: RowBuffers | None = None  # the first prefill tells their shape
        self.cohorts: list[Cohort] = []

    def admit(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> Tensor:
        if not self.share:
            prompts = [prompt for prompt, count in zip(prompts, copies, strict=True) for _ in range(count)]
            copies = [1] * len(prompts)
        logits_PV, cache, attention_PL = prefill_by_length(self.model, prompts, self.pad_id)
        if self.buffers is None:
            self.buffers = RowBuffers(*self.room, cache)
            self.cache = DecodeCache(self.buffers, self.cohorts)
        start = close_gaps(self.cohorts, self.buffers)
        if self.share:
            self.cohorts.append(shared_cohort(start, copies, cache, attention_PL))
        else:
            self.cohorts.append(own_cohort(start, self.buffers, cache, attention_PL))
        return logits_PV.repeat_interleave(torch.tensor(list(copies), device=logits_PV.device), dim=0)

    def advance(self, token_R: Tensor, position_R: Tensor) -> Tensor:
        inputs = {"input_ids": token_R[:, None], "position_ids": position_R[:, None], "decode_cache": self.cache}
        with decode_attention(self.model):
            logits_RV = self.model(**inputs, past_key_values=self.cache, use_cache=True).logits[:, -1]
        for cohort in self.cohorts:
            cohort.next_column(self.buffers)
        return logits_RV

    def drop(self, ended_R: Tensor) -> Tensor:
        orders, first = [], 0
        for cohort in self.cohorts:
            alive_C = ~ended_R[first : first + cohort.size]
            size = cohort.size
            orders.append(cohort.keep(alive_C, self.buffers) + first)
            first += size
        self.cohorts[:] = [cohort for cohort in self.cohorts if cohort.size]
        return torch.cat(orders)


class PlainDecoder:
    """One transformers cache, copied for the answers of a prompt and cut down when rows end."""

    refills = False

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model, self.pad_id = model, pad_id

    def admit(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> Tensor:
        logits_PV, self.cache, attention_PL = prefill(self.model, prompts, self.pad_id)
        prompt_R = torch.arange(len(prompts)).repeat_interleave(torch.tensor(list(copies))).to(logits_PV.device)
        self.cache.reorder_cache(prompt_R)
        self.attention_RL = attention_PL[prompt_R]
        return logits_PV[prompt_R]

    def advance(self, token_R: Tensor, position_R: Tensor) -> Tensor:
        one_R1 = torch.ones_like(token_R, dtype=torch.bool)[:, None]
        self.attention_RL = torch.cat([self.attention_RL, one_R1], dim=-1)
        inputs = model_inputs(self.model, token_R[:, None], one_R1) | {"attention_mask": self.attention_RL.long()}
        if "position_ids" in inputs:
            inputs["position_ids"] = position_R[:, None]
        return self.model(**inputs, past_key_values=self.cache, use_cache=True).logits[:, -1]

    def drop(self, ended_R: Tensor) -> Tensor:
        order_R = (~ended_R).nonzero().squeeze(-1)
        self.cache.reorder_cache(order_R)
        self.attention_RL = self.attention_RL[order_R]
        return order_R


def prefill(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int
) -> tuple[Tensor, DynamicCache, Tensor]:
    """One forward pass over the prompts: logits_PV of the first new token, the cache, attention_PL (True = counts).

    Left padding puts the last prompt token of every row in the last column.
    """
    ids_PL, attention_PL = pad(prompts, pad_id, "left")
    ids_PL, attention_PL = ids_PL.to(model.device), attention_PL.to(model.device)
    inputs = model_inputs(model, ids_PL, attention_PL)
    if accepts(type(model), "logits_to_keep"):
        inputs["logits_to_keep"] = 1
    cache = DynamicCache(config=model.config)
    return model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1], cache, attention_PL


def prefill_by_length(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int
) -> tuple[Tensor, DynamicCache, Tensor]:
    """As `prefill`, for prompts sorted by length, longest first: passes over prompts of like length, padded after.

    For models whose cache is one key and one value a token and layer (attention.can_share).
    """
    parts = [prefill(model, part, pad_id) for part in _like_lengths(prompts)]
    if len(parts) == 1:
        return parts[0]
    length = len(prompts[0])

    def join(tensors: Sequence[Tensor], dim: int) -> Tensor:
        """Left-padded with zeros along `dim`, one below the other."""
        behind = (0, 0) * (tensors[0].ndim - 1 - dim)
        return torch.cat([pad_tensor(one, (*behind, length - one.shape[dim], 0)) for one in tensors])

    logits, caches, attentions = zip(*parts, strict=True)
    layers = zip(*(cache.layers for cache in caches), strict=True)
    states = [(join([one.keys for one in layer], 2), join([one.values for one in layer], 2)) for layer in layers]
    return torch.cat(logits), DynamicCache(states), join(attentions, 1)


def _like_lengths(prompts: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
    """Cut where prompts become shorter than 3/4 of the first of their part, if that has PART_TOKENS tokens."""
    parts, start = [], 0
    for index, prompt in enumerate(prompts):
        longest = len(prompts[start])
        if len(prompt) * 4 < longest * 3 and (index - start) * longest >= PART_TOKENS:
            parts.append(prompts[start:index])
            start = index
    return [*parts, prompts[start:]]
