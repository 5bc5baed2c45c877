"""The microbatches of a minibatch, dealt out to the ranks.

Every rank knows the whole minibatch and cuts it into the same microbatches as one process would, so that batch sizes
always add up and the loss of many processes is that of one. Ranks take turns: microbatches come sorted by
length, so that those computed at the same time are of like length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlp_engine.distributed.world import world
from rlp_engine.training.optimizer import LossShare

Group = TypeVar("Group")


def dealt(groups: Sequence[Group]) -> Iterator[tuple[Group, bool]]:
    """This rank's groups, as many as every other rank has; (group, counts).

    A rank for which the last turn has none left gets the first group again, which must not count: a forward and a
    backward pass is something that all ranks do together.
    """
    ours = world()
    for start in range(0, len(groups), ours.size):
        place = start + ours.rank
        yield (groups[place], True) if place < len(groups) else (groups[0], False)


def idle(share: LossShare) -> LossShare:
    """The same computation with a loss of zero, and no gradient."""

    def without_weight() -> Tensor:
        return share() * 0.0

    return without_weight


class _AllRanksRows(torch.autograd.Function):
    """Rows of every rank, in the order of the ranks; the gradient of a rank's own rows goes back to it."""

    @staticmethod
    def forward(ctx: Any, own_ND: Tensor) -> Tensor:
        ours = world()
        width = own_ND.shape[1]
        parts = [part.view(-1, width) for part in ours.gather_tensors(own_ND.flatten())]
        ctx.first, ctx.count = sum(len(part) for part in parts[: ours.rank]), len(own_ND)
        return torch.cat(parts).to(own_ND.device)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> Tensor:
        # Every rank computes the same from the rows, and gives a part of it (1 / size) as its share: the sum over
        # ranks of the gradients that reach these rows is `size` times this rank's own.
        return grad_ND[ctx.first : ctx.first + ctx.count] * world().size


def all_ranks_rows(own_ND: Tensor) -> Tensor:
    """(M, D): the rows (N, D) of all ranks, at every rank, with the gradient of a loss that the ranks share evenly.

    Ranks may have different numbers of rows, also none. Every rank has to ask.
    """
    return own_ND if world().size == 1 else _AllRanksRows.apply(own_ND)


def of_all_ranks(diagnostics: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The microbatches' diagnostics of every rank. Every rank has to ask, and gets the same."""
    if world().size == 1:
        return {name: [float(value) for value in values] for name, values in diagnostics.items()}
    found: dict[str, list[float]] = defaultdict(list)
    for part in world().gather({name: [float(value) for value in values] for name, values in diagnostics.items()}):
        for name, values in part.items():
            found[name] += values
    return dict(found)
