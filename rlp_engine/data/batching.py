"""Padding, and grouping by length.

Shapes: B sequences, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

SHORT = 0.6  # of the longest sequence of a group
FEWEST = 8  # a group of fewer is not ended early: a forward pass has costs of its own


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
    """Indices in groups of near-equal lengths, longest group first, for one forward pass each.

    A group holds as many tokens, padding included, as `size` of the longest sequences: `size` of those, more of
    shorter ones, so that every pass is about as large. It ends early where sequences have become much shorter
    than its first: one pass more costs less than the padding (measured on a CPU).

    Longest first, so that a batch too large for memory fails at the start and not after an hour. Every
    index is in exactly one group; equal lengths keep their order.
    """
    if size < 1:
        raise ValueError(f"want a group size of at least 1, got {size}")
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    budget = size * max(1, max(lengths, default=1))
    groups: list[list[int]] = []
    for index in order:
        longest = max(1, lengths[groups[-1][0]]) if groups else 0
        is_full = bool(groups) and (len(groups[-1]) + 1) * longest > budget
        is_short = bool(groups) and len(groups[-1]) >= FEWEST and lengths[index] < SHORT * longest
        if not groups or is_full or is_short:
            groups.append([])
        groups[-1].append(index)
    return groups
