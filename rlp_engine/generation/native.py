"""Answers from a causal language model: rows decoded side by side, places of finished ones refilled from a queue.

Built for many answers to one prompt. The randomness of every token is keyed by its request and position,
so neither the batch nor the order of the requests changes what is drawn, up to ties in the last bits of
the logits. Shapes: N requests, R rows at work, T = max_new_tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlp_engine.errors import ModelError
from rlp_engine.generation.decoders import decoder_for
from rlp_engine.generation.sampling import choose_tokens
from rlp_engine.models.inputs import position_limit
from rlp_engine.randomness import KeyPart, uniforms

REFILL_SHARE = 0.5  # of the rows free before others are admitted: prefills of many prompts, few cohorts in the cache


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
    """One answer. `logprobs` are those of its tokens, in nats, at the temperature and before top_p."""

    token_ids: list[int]  # the EOS included when there is one
    finish_reason: str  # "stop" (EOS) or "length"
    logprobs: list[float]

    @property
    def logprob(self) -> float:
        """Of the whole answer, in nats."""
        return math.fsum(self.logprobs)


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
        on_progress: told whenever answers are done.

    Raises:
        ModelError: if a prompt and `max_new_tokens` do not fit in the model's positions.
    """
    _check_fit(model, requests, settings)
    if not requests:
        return []
    was_training = model.training
    model.eval()
    try:
        # no_grad, not inference_mode: buffers that a model makes here (rotary tables) must work in training later.
        with torch.no_grad():
            return _generate(model, requests, settings, min(rows, len(requests)), stop, on_progress)
    finally:
        model.train(was_training)


class Queue:
    """Requests that wait, in groups that share a prompt, longest prompts first: rows of like length pad little."""

    def __init__(self, requests: Sequence[Request]) -> None:
        groups: list[list[int]] = []
        for index, request in enumerate(requests):
            if groups and list(requests[groups[-1][0]].prompt_ids) == list(request.prompt_ids):
                groups[-1].append(index)
            else:
                groups.append([index])
        self._groups = deque(sorted(groups, key=lambda group: -len(requests[group[0]].prompt_ids)))
        self.prompts = len(groups)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def take(self, space: int) -> list[list[int]]:
        """Groups of at most `space` request indices in all. What is cut off a group waits, to be prefilled again."""
        taken: list[list[int]] = []
        while self._groups and space:
            group = self._groups.popleft()
            taken.append(group[:space])
            if len(group) > space:
                self._groups.appendleft(group[space:])
            space -= len(taken[-1])
        return taken


class _Answers:
    """The answers so far, of all requests; row r at work is request index_R[r] at its token step_R[r]."""

    def __init__(self, requests: Sequence[Request], settings: Sampling, device: torch.device) -> None:
        self.requests, self.settings, self.device = requests, settings, device
        shape = (len(requests), settings.max_new_tokens)
        self.u_NT = torch.empty(shape, dtype=torch.float64, device=device)
        self.tokens_NT = torch.empty(shape, dtype=torch.long, device=device)
        self.logprobs_NT = torch.empty(shape, dtype=torch.float32, device=device)
        self.length_N = torch.zeros(len(requests), dtype=torch.long, device=device)
        self.is_eos_V: Tensor | None = None  # the first logits tell V
        self.index_R = self.step_R = self.position_R = torch.zeros(0, dtype=torch.long, device=device)

    def begin(self, indices: list[int]) -> None:
        """Rows for these requests, after those at work."""
        u_RT = np.stack([uniforms(self.settings.max_new_tokens, *self.requests[index].key) for index in indices])
        index_R = torch.tensor(indices, device=self.device)
        self.u_NT[index_R] = torch.from_numpy(u_RT).to(self.device)
        position_R = torch.tensor([len(self.requests[index].prompt_ids) for index in indices], device=self.device)
        self.index_R = torch.cat([self.index_R, index_R])
        self.step_R = torch.cat([self.step_R, torch.zeros_like(index_R)])
        self.position_R = torch.cat([self.position_R, position_R])

    def add_token(self, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of every row, and whether the answer ends with it."""
        at_RT = self.index_R, self.step_R
        token_R, logprob_R = choose_tokens(
            logits_RV, self.u_NT[at_RT], temperature=self.settings.temperature, top_p=self.settings.top_p
        )
        self.tokens_NT[at_RT], self.logprobs_NT[at_RT] = token_R, logprob_R
        self.step_R = self.step_R + 1
        ended_R = self._is_eos(logits_RV.shape[-1])[token_R] | (self.step_R == self.settings.max_new_tokens)
        self.length_N[self.index_R] = self.step_R
        return token_R, ended_R

    def _is_eos(self, vocabulary: int) -> Tensor:
        if self.is_eos_V is None:
            eos_ids = [eos_id for eos_id in self.settings.eos_ids if 0 <= eos_id < vocabulary]
            self.is_eos_V = torch.zeros(vocabulary, dtype=torch.bool, device=self.device)
            self.is_eos_V[eos_ids] = True
        return self.is_eos_V

    def keep(self, order_R: Tensor) -> None:
        self.index_R, self.step_R, self.position_R = (
            of_R[order_R] for of_R in (self.index_R, self.step_R, self.position_R)
        )

    def completions(self) -> list[Completion]:
        eos = set(self.settings.eos_ids)
        rows = zip(self.length_N.tolist(), self.tokens_NT.tolist(), self.logprobs_NT.tolist(), strict=True)
        return [
            Completion(ids[:length], "stop" if ids[length - 1] in eos else "length", logprobs[:length])
            for length, ids, logprobs in rows
        ]


def _generate(
    model: PreTrainedModel,
    requests: Sequence[Request],
    settings: Sampling,
    rows: int,
    stop: Stop | None,
    on_progress: Progress | None,
) -> list[Completion]:
    queue = Queue(requests)
    decoder = decoder_for(
        model,
        rows=rows,
        prompt_tokens=max(len(request.prompt_ids) for request in requests),
        new_tokens=settings.max_new_tokens,
        share=2 * queue.prompts <= len(requests),
        pad_id=settings.pad_id,
    )
    answers = _Answers(requests, settings, model.device)
    logits_RV, working, done = None, 0, 0
    while working or queue:
        if stop is not None:
            stop.check()
        if queue and (not working or (decoder.refills and rows - working >= REFILL_SHARE * rows)):
            groups = queue.take(rows - working)
            first_RV = decoder.admit([requests[group[0]].prompt_ids for group in groups], list(map(len, groups)))
            answers.begin([index for group in groups for index in group])
            logits_RV = torch.cat([logits_RV, first_RV]) if working else first_RV
            working = len(logits_RV)
        token_R, ended_R = answers.add_token(logits_RV)
        ended = int(ended_R.sum())
        if ended:
            order_R = decoder.drop(ended_R)
            answers.keep(order_R)
            token_R = token_R[order_R]
            working, done = working - ended, done + ended
            if on_progress is not None:
                on_progress(done, len(requests))
        if working:
            logits_RV = decoder.advance(token_R, answers.position_R)
            answers.position_R = answers.position_R + 1
    return answers.completions()


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
