"""Keys and values of the rows that are decoded side by side, in buffers that are written in place.

The rows that are admitted together form a cohort. They are at the same token, so the columns that a cohort
has filled are a rectangle: no row reads a column that is not its own, and nothing needs a mask but the
padding of prompts. A prompt with several answers is stored once (`Prefix`) and read by all its rows; with one
answer a prompt it lies in the row's own columns.

Shapes: N layers, R rows of the buffers, C rows of a cohort, P its prompts, M most rows of one prompt, H heads of
keys, L columns of the prompts, W columns of a row, K = RECENT columns, D numbers a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

RECENT = 32  # columns; measured: reading is 2 to 3 times faster than row by row below, slower above


class RowBuffers:
    """Room for `rows` rows of prompt and new tokens, in every layer; a row's place changes when others end.

    The newest columns of a row lie column by column: a step writes one stretch of memory, and few columns of
    many rows are read as a stream. When RECENT of them are full they move to where each row's columns lie
    together, which is faster to read for many columns.
    """

    def __init__(self, rows: int, prompt_columns: int, new_columns: int, like: DynamicCache) -> None:
        settled = prompt_columns + new_columns // RECENT * RECENT
        layers = len(like.layers)

        def room(state_PHLD: Tensor) -> tuple[Tensor, Tensor]:
            _, heads, _, size = state_PHLD.shape
            recent_NKRHD = state_PHLD.new_empty((layers, min(RECENT, new_columns), rows, heads, size))
            return state_PHLD.new_empty((layers, rows, heads, settled, size)), recent_NKRHD

        self.keys_NRHWD, self.recent_keys_NKRHD = room(like.layers[0].keys)
        self.values_NRHWD, self.recent_values_NKRHD = room(like.layers[0].values)

    def write(self, layer: int, rows: slice, column: int, key_CH1D: Tensor, value_CH1D: Tensor) -> None:
        self.recent_keys_NKRHD[layer, column, rows] = key_CH1D[:, :, 0]
        self.recent_values_NKRHD[layer, column, rows] = value_CH1D[:, :, 0]

    def settle(self, rows: slice, columns: int) -> None:
        """Move RECENT columns of these rows behind the `columns` that lie together."""
        for recent_NKRHD, settled_NRHWD in self._pairs():
            settled_NRHWD[:, rows, :, columns : columns + RECENT] = recent_NKRHD[:, :, rows].permute(0, 2, 3, 1, 4)

    def move(self, sources: Tensor | slice, targets: Tensor | slice, settled: int, recent: int) -> None:
        """Copy the filled columns of the source rows to the target rows; they may overlap."""
        for recent_NKRHD, settled_NRHWD in self._pairs():
            recent_NKRHD[:, :recent, targets] = recent_NKRHD[:, :recent, sources].clone()
            settled_NRHWD[:, targets, :, :settled] = settled_NRHWD[:, sources, :, :settled].clone()

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.recent_keys_NKRHD, self.keys_NRHWD), (self.recent_values_NKRHD, self.values_NRHWD)]


@dataclass
class Prefix:
    """Prompts of a cohort, each stored once. A row reads its prompt at a place (prompt, draw) of a (P, M) grid."""

    keys_PHLD: list[Tensor]  # of each layer
    values_PHLD: list[Tensor]
    bias_PL: Tensor | None  # added to scores: 0 at a token, -inf at padding; None = no padding
    prompt_C: Tensor
    draw_C: Tensor
    draws: int  # M

    def __post_init__(self) -> None:
        self._place()

    def keep(self, order_C: Tensor) -> None:
        """The rows that go on, in their new order. Prompts without a row go when they are a quarter of all."""
        self.prompt_C, self.draw_C = self.prompt_C[order_C], self.draw_C[order_C]
        alive_P = torch.bincount(self.prompt_C, minlength=self.prompts) > 0
        if int(alive_P.sum()) * 4 <= self.prompts * 3:
            kept = alive_P.nonzero().squeeze(-1)
            self.keys_PHLD = [keys_PHLD[kept] for keys_PHLD in self.keys_PHLD]
            self.values_PHLD = [values_PHLD[kept] for values_PHLD in self.values_PHLD]
            self.bias_PL = None if self.bias_PL is None else self.bias_PL[kept]
            self.prompt_C = (alive_P.cumsum(0) - 1)[self.prompt_C]
        self._place()

    @property
    def prompts(self) -> int:
        return self.keys_PHLD[0].shape[0]

    def _place(self) -> None:
        """`place_CH`: where (row, head) lies in a (P, H, M) grid that is flattened."""
        heads = self.keys_PHLD[0].shape[1]
        head_H = torch.arange(heads, device=self.prompt_C.device)
        place_CH = (self.prompt_C[:, None] * heads + head_H) * self.draws + self.draw_C[:, None]
        self.place_CH = place_CH.flatten()
        self.bias_PH1L = None
        if self.bias_PL is not None:
            self.bias_PH1L = self.bias_PL.repeat_interleave(heads, dim=0)[:, None]


@dataclass
class Cohort:
    """Rows at the same token: `size` rows of the buffers from row `start` on."""

    start: int
    size: int
    settled: int  # columns filled where each row's columns lie together
    prefix: Prefix | None  # None = the prompts lie in the first columns of the rows
    bias_C1L: Tensor | None  # padding of those prompts, as in Prefix
    recent: int = 0  # columns filled that lie column by column

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.size)

    def next_column(self, buffers: RowBuffers) -> None:
        """The column that was written counts from now on."""
        self.recent += 1
        if self.recent == RECENT:
            buffers.settle(self.rows, self.settled)
            self.settled, self.recent = self.settled + RECENT, 0

    def keep(self, alive_C: Tensor, buffers: RowBuffers) -> Tensor:
        """Drop the other rows; the last ones move into the holes, so little is copied.

        Returns:
            order_C: the old row of every row that is left.
        """
        kept = int(alive_C.sum())
        holes = (~alive_C[:kept]).nonzero().squeeze(-1)
        movers = alive_C[kept:].nonzero().squeeze(-1) + kept
        if len(holes):
            buffers.move(movers + self.start, holes + self.start, self.settled, self.recent)
        order_C = torch.arange(kept, device=alive_C.device)
        order_C[holes] = movers
        self.size = kept
        if self.prefix is not None and kept:
            self.prefix.keep(order_C)
        if self.bias_C1L is not None:
            self.bias_C1L = self.bias_C1L[order_C]
        return order_C


def close_gaps(cohorts: Sequence[Cohort], buffers: RowBuffers) -> int:
    """Move the cohorts to the front of the buffers, in order; the number of rows they take."""
    taken = 0
    for cohort in cohorts:
        if cohort.start != taken:
            sources, cohort.start = cohort.rows, taken
            buffers.move(sources, cohort.rows, cohort.settled, cohort.recent)
        taken += cohort.size
    return taken


def shared_cohort(start: int, copies: Sequence[int], cache: DynamicCache, attention_PL: Tensor) -> Cohort:
    """Rows that read the prompts of a prefill, `copies[p]` rows for prompt p, in order. Takes the cache's tensors."""
    device = attention_PL.device
    copies_P = torch.tensor(list(copies), device=device)
    prompt_C = torch.repeat_interleave(torch.arange(len(copies), device=device), copies_P)
    draw_C = torch.arange(len(prompt_C), device=device) - (copies_P.cumsum(0) - copies_P)[prompt_C]
    keys_PHLD = [layer.keys for layer in cache.layers]
    values_PHLD = [layer.values for layer in cache.layers]
    bias_PL = _padding_bias(attention_PL, keys_PHLD[0].dtype)
    prefix = Prefix(keys_PHLD, values_PHLD, bias_PL, prompt_C, draw_C, max(copies))
    return Cohort(start, len(prompt_C), 0, prefix, None)


def own_cohort(start: int, buffers: RowBuffers, cache: DynamicCache, attention_CL: Tensor) -> Cohort:
    """Rows with a prompt each, copied into the rows' first columns."""
    size, columns = attention_CL.shape
    for index, layer in enumerate(cache.layers):
        buffers.keys_NRHWD[index, start : start + size, :, :columns] = layer.keys
        buffers.values_NRHWD[index, start : start + size, :, :columns] = layer.values
    bias_CL = _padding_bias(attention_CL, buffers.keys_NRHWD.dtype)
    return Cohort(start, size, columns, None, None if bias_CL is None else bias_CL[:, None])


def _padding_bias(attention_PL: Tensor, dtype: torch.dtype) -> Tensor | None:
    if bool(attention_PL.all()):
        return None
    return torch.zeros(attention_PL.shape, dtype=dtype, device=attention_PL.device).masked_fill_(
        ~attention_PL, float("-inf")
    )
