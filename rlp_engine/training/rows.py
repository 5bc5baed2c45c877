"""Token lists to padded microbatches.

Prompts are padded on the left and responses on the right, so that all responses begin in one column.

Shapes: R = rows of a microbatch, L = tokens of prompt and response, T = response positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SHORT = 0.6  # of the longest response of a microbatch
FEWEST_ROWS = 8  # a group of fewer is not ended early: a forward pass has costs of its own


class Rows(NamedTuple):
    """A microbatch as the models read it."""

    ids_RL: Tensor
    attention_RL: Tensor  # bool: True = a token, False = padding
    start: int  # column of the first response token; T = L - start


def pack(
    prompt_ids: Sequence[list[int]],
    response_ids: Sequence[list[int]],
    *,
    pad_id: int,
    device: torch.device,
    response_width: int = 1,
) -> Rows:
    """Rows of prompt and response; T is the longest response, and at least `response_width`."""
    start = max(map(len, prompt_ids))
    width = max(response_width, *map(len, response_ids))
    ids, attention = [], []
    for prompt, response in zip(prompt_ids, response_ids, strict=True):
        left, right = start - len(prompt), width - len(response)
        ids.append([pad_id] * left + prompt + response + [pad_id] * right)
        attention.append([False] * left + [True] * (len(prompt) + len(response)) + [False] * right)
    return Rows(torch.tensor(ids).to(device), torch.tensor(attention).to(device), start)


def microbatches(
    rows: Sequence[int], prompt_ids: Sequence[list[int]], response_ids: Sequence[list[int]], size: int
) -> list[list[int]]:
    """`rows` in groups of at most `size`, the longest first, rows of like length together.

    A group ends early where the responses have become much shorter than its first: a few more forward
    passes cost less than the padding (measured with a 200k-parameter model on a CPU: a fifth of a PPO step).
    Longest first, so that memory that is too small fails at the first group.
    """
    ordered = sorted(rows, key=lambda row: (-len(response_ids[row]), -len(prompt_ids[row]), row))
    groups: list[list[int]] = []
    for row in ordered:
        longest = len(response_ids[groups[-1][0]]) if groups else 0
        is_short = len(response_ids[row]) < SHORT * longest and len(groups[-1]) >= FEWEST_ROWS
        if not groups or len(groups[-1]) == size or is_short:
            groups.append([])
        groups[-1].append(row)
    return groups


def live_mask(response_ids: Sequence[list[int]], width: int) -> Tensor:
    """(R, T) bool: True at the tokens of each response; T = `width`."""
    lengths_R = torch.tensor([len(ids) for ids in response_ids])
    return torch.arange(width)[None, :] < lengths_R[:, None]
