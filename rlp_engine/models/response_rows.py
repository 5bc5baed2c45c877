"""Prompts and responses as the rows of a forward pass.

All padding is on the right, so that rows of like total length go together, a causal model needs no mask, and
states are read where the response tokens are and nowhere else.

Shapes: R = rows of a microbatch, L = tokens of prompt and response, T = response positions, N = response
tokens of all rows, row after row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlp_engine.data.batching import length_groups


class Rows(NamedTuple):
    """A microbatch as the models read it."""

    ids_RL: Tensor
    attention_RL: Tensor | None  # bool; None = not needed, since nothing is read at the padding
    live_RT: Tensor  # bool: the tokens of each response
    before_RT: Tensor  # column of the state before response token t: the one that predicts it

    @property
    def tokens_N(self) -> Tensor:
        """The response tokens."""
        return self.ids_RL.gather(1, self.before_RT + 1)[self.live_RT]

    def before_N(self, states_RL: Tensor, skipped: int = 0) -> Tensor:
        """(N, ...) of (R, L - skipped, ...), which lacks the first columns: the states before the response tokens."""
        row_N, place_N = self.live_RT.nonzero(as_tuple=True)
        return states_RL[row_N, self.before_RT[row_N, place_N] - skipped]


def pack(
    prompt_ids: Sequence[list[int]],
    response_ids: Sequence[list[int]],
    *,
    pad_id: int,
    device: torch.device,
    response_width: int | None = None,
) -> Rows:
    """Rows of prompt and response.

    Args:
        response_width: T, where states past the end of a response are read too; None = the longest response, and
            what stands at the padding does not count.

    Raises:
        ValueError: an empty prompt: a token is predicted by one before it.
    """
    if not all(prompt_ids):
        raise ValueError("a response needs at least one prompt token before it")
    width = response_width or max(1, *map(len, response_ids))
    length = max(
        len(prompt) + (width if response_width else max(1, len(response)))
        for prompt, response in zip(prompt_ids, response_ids, strict=True)
    )
    ids_RL = torch.full((len(prompt_ids), length), pad_id)
    for row, (prompt, response) in enumerate(zip(prompt_ids, response_ids, strict=True)):
        ids_RL[row, : len(prompt) + len(response)] = torch.tensor(prompt + response)
    start_R1 = torch.tensor([[len(prompt)] for prompt in prompt_ids])
    total_R1 = start_R1 + torch.tensor([[len(response)] for response in response_ids])
    before_RT = (start_R1 - 1 + torch.arange(width)).clamp(max=length - 2)
    attention_RL = (torch.arange(length) < total_R1).to(device) if response_width else None
    live_RT = live_mask(response_ids, width)
    return Rows(ids_RL.to(device), attention_RL, live_RT.to(device), before_RT.to(device))


def microbatches(
    rows: Sequence[int], prompt_ids: Sequence[list[int]], response_ids: Sequence[list[int]], size: int
) -> list[list[int]]:
    """`rows` in groups of like total length, as large as `size` of the longest (`data/batching.length_groups`)."""
    ordered = sorted(rows)  # ties by row, whatever the order given
    lengths = [len(prompt_ids[row]) + len(response_ids[row]) for row in ordered]
    return [[ordered[place] for place in group] for group in length_groups(lengths, size)]


def live_mask(response_ids: Sequence[list[int]], width: int) -> Tensor:
    """(R, T) bool: True at the tokens of each response; T = `width`."""
    lengths_R = torch.tensor([len(ids) for ids in response_ids])
    return torch.arange(width)[None, :] < lengths_R[:, None]
