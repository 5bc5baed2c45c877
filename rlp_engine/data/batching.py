"""Padding, and grouping by length.

Shapes: B sequences, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def pad(sequences: Sequence[Sequence[int]], pad_id: int, side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
    """Token ids of unequal length as one rectangle.

    Returns:
        ids_BL (int64) and attention_BL (bool, True = a token, False = padding); L is the longest length.
        The mask comes from the lengths, so a token that equals `pad_id` inside a sequence still counts.

    Raises:
        ValueError: no sequences, or all of them empty: no model takes a (B, 0) batch.
    """
    length = max((len(sequence) for sequence in sequences), default=0)
    if length == 0:
        raise ValueError(f"want at least one token to pad, got {len(sequences)} sequences without any")
    ids_BL = torch.full((len(sequences), length), pad_id, dtype=torch.long)
    attention_BL = torch.zeros((len(sequences), length), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        start = length - len(sequence) if side == "left" else 0
        ids_BL[row, start : start + len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        attention_BL[row, start : start + len(sequence)] = True
    return ids_BL, attention_BL


def length_groups(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices in groups of at most `size`, near-equal lengths together, longest group first.

    Longest first, so that a batch too large for memory fails at the start and not after an hour. Every
    index is in exactly one group; equal lengths keep their order.
    """
    if size < 1:
        raise ValueError(f"want a group size of at least 1, got {size}")
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + size] for start in range(0, len(order), size)]
