"""Attention of one new token a row over the buffers of cache.py, in place of the model's own while it decodes.

transformers calls a registered function by name for every architecture that goes through its attention
interface. A probe tells whether a model does, and asks for nothing but plain causal attention; all others
decode through `decoders.PlainDecoder`.

Shapes: B rows, C rows of a cohort, P prompts, M most rows of a prompt, Q heads of queries, H heads of keys,
G = Q / H, L prompt columns, W columns of a row, D numbers a head. Joined letters are one dimension: CH = C * H.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rlp_engine.generation.cache import Cohort, Prefix, RowBuffers
from rlp_engine.models.inputs import accepts

NAME = "rlp_decode"
SMALL_PRODUCT = 400  # multiplications; torch.bmm takes a slow path for smaller products on a CPU (measured: 4 times)
# What an attention layer may say without asking for more than softmax(scaling * q k) v over all columns.
HARMLESS = {"position_ids", "cache_position", "use_cache", "is_causal", "dropout", "output_attentions"}


class DecodeCache(Cache):
    """What the model takes for its cache while it decodes: keys go to the buffers, attention reads them there."""

    def __init__(self, buffers: RowBuffers, cohorts: Sequence[Cohort]) -> None:
        super().__init__(layers=[])
        self.buffers, self.cohorts = buffers, cohorts

    def update(self, key_BH1D: Tensor, value_BH1D: Tensor, layer_idx: int, *_: Any) -> tuple[Tensor, Tensor]:
        row = 0
        for cohort in self.cohorts:
            new = slice(row, row + cohort.size)
            self.buffers.write(layer_idx, cohort.rows, cohort.recent, key_BH1D[new], value_BH1D[new])
            row += cohort.size
        self._layer = layer_idx
        return key_BH1D, value_BH1D

    def attend(self, query_BQ1D: Tensor, scaling: float) -> Tensor:
        """(B, 1, Q, D) of the layer whose keys came last; the new token is the last column of its row."""
        query_BQ1D = query_BQ1D * scaling
        parts = query_BQ1D.split([cohort.size for cohort in self.cohorts])
        outs = [self._attend(cohort, part) for cohort, part in zip(self.cohorts, parts, strict=True)]
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _attend(self, cohort: Cohort, query_CQ1D: Tensor) -> Tensor:
        buffers, layer = self.buffers, self._layer
        rows, heads, size = cohort.size, buffers.keys_NRHWD.shape[2], query_CQ1D.shape[-1]
        query_CHGD = query_CQ1D.reshape(rows * heads, -1, size)
        new = slice(0, cohort.recent + 1)
        keys_KCHD = buffers.recent_keys_NKRHD[layer, new, cohort.rows].flatten(1, 2)
        values_KCHD = buffers.recent_values_NKRHD[layer, new, cohort.rows].flatten(1, 2)
        pieces: list[Piece] = [Rows(keys_KCHD.transpose(0, 1), values_KCHD.transpose(0, 1), None)]
        if cohort.settled:
            keys_CHWD = buffers.keys_NRHWD[layer, cohort.rows, :, : cohort.settled].flatten(0, 1)
            values_CHWD = buffers.values_NRHWD[layer, cohort.rows, :, : cohort.settled].flatten(0, 1)
            pieces.insert(0, Rows(keys_CHWD, values_CHWD, cohort.bias_C1L))
        if cohort.prefix is not None:
            pieces.insert(0, Shared(cohort.prefix, layer))
        return attend(query_CHGD, pieces).view(rows, 1, query_CQ1D.shape[1], -1)


class Piece(Protocol):
    """Some of the columns that queries look at."""

    def scores(self, query_CHGD: Tensor) -> Tensor:
        """q k^T over the columns of this piece, (CH, G, W)."""

    def weighted(self, weights_CHGW: Tensor) -> Tensor:
        """Weights times values, (CH, G, D)."""


def attend(query_CHGD: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """softmax(q k^T) v over the columns of all pieces, (CH, G, D). The queries come scaled.

    The softmax is in float32 whatever the dtype, as transformers' own.
    """
    scores = [piece.scores(query_CHGD) for piece in pieces]
    scores_CHGW = scores[0] if len(scores) == 1 else torch.cat(scores, dim=-1)
    weights_CHGW = scores_CHGW.softmax(dim=-1, dtype=torch.float32).to(scores_CHGW.dtype)
    weights = weights_CHGW.split([part.shape[-1] for part in scores], dim=-1)
    outs = [piece.weighted(part) for piece, part in zip(pieces, weights, strict=True)]
    return outs[0] if len(outs) == 1 else sum(outs[1:], start=outs[0])


class Rows(NamedTuple):
    """Columns that belong to one row each."""

    keys_CHWD: Tensor
    values_CHWD: Tensor
    bias_C1L: Tensor | None  # added to the scores of the first L columns

    def scores(self, query_CHGD: Tensor) -> Tensor:
        scores_CHGW = torch.bmm(query_CHGD, self.keys_CHWD.transpose(1, 2))
        if self.bias_C1L is not None:
            rows, _, columns = self.bias_C1L.shape
            scores_CHGW.view(rows, -1, scores_CHGW.shape[-1])[..., :columns] += self.bias_C1L
        return scores_CHGW

    def weighted(self, weights_CHGW: Tensor) -> Tensor:
        _, columns, size = self.values_CHWD.shape
        if weights_CHGW.shape[1] == 1 and columns * size < SMALL_PRODUCT and weights_CHGW.device.type == "cpu":
            return (weights_CHGW.transpose(1, 2) * self.values_CHWD).sum(dim=1, keepdim=True)
        return torch.bmm(weights_CHGW, self.values_CHWD)


class Shared(NamedTuple):
    """Prompts stored once: the queries of a prompt's rows are multiplied with its keys together.

    They are laid out on the (P, H, M) grid for that; places of rows that ended hold zeros.
    """

    prefix: Prefix
    layer: int

    def scores(self, query_CHGD: Tensor) -> Tensor:
        keys_PHLD = self.prefix.keys_PHLD[self.layer].flatten(0, 1)
        pairs, group, _ = query_CHGD.shape
        scores_PHMGL = torch.bmm(self._to_grid(query_CHGD, len(keys_PHLD)), keys_PHLD.transpose(1, 2))
        if self.prefix.bias_PH1L is not None:
            scores_PHMGL += self.prefix.bias_PH1L
        return self._from_grid(scores_PHMGL, pairs, group)

    def weighted(self, weights_CHGL: Tensor) -> Tensor:
        values_PHLD = self.prefix.values_PHLD[self.layer].flatten(0, 1)
        pairs, group, _ = weights_CHGL.shape
        out_PHMGD = torch.bmm(self._to_grid(weights_CHGL, len(values_PHLD)), values_PHLD)
        return self._from_grid(out_PHMGD, pairs, group)

    def _to_grid(self, of_CHG: Tensor, prompts_and_heads: int) -> Tensor:
        pairs, group, size = of_CHG.shape
        grid = of_CHG.new_zeros((prompts_and_heads * self.prefix.draws, group * size))
        grid.index_copy_(0, self.prefix.place_CH, of_CHG.reshape(pairs, -1))
        return grid.view(prompts_and_heads, -1, size)

    def _from_grid(self, of_PHMG: Tensor, pairs: int, group: int) -> Tensor:
        of_cells = of_PHMG.view(of_PHMG.shape[0] * self.prefix.draws, -1)
        return of_cells.index_select(0, self.prefix.place_CH).view(pairs, group, -1)


class _Probe(Cache):
    """Notes what the attention layers of one forward pass ask for; its answers mean nothing."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.pending: tuple[Tensor, Tensor] | None = None
        self.layers_seen: list[int] = []
        self.shapes: set[tuple[int, ...]] = set()
        self.plain = True

    def update(self, key_BH1D: Tensor, value_BH1D: Tensor, layer_idx: int, *_: Any) -> tuple[Tensor, Tensor]:
        self.plain &= self.pending is None and key_BH1D.ndim == value_BH1D.ndim == 4
        self.pending = key_BH1D, value_BH1D
        self.layers_seen.append(layer_idx)
        self.shapes |= {(*key_BH1D.shape, *value_BH1D.shape)}
        return key_BH1D, value_BH1D

    def note(self, key: Tensor, value: Tensor, mask: Tensor | None, asked: dict[str, Any]) -> None:
        as_cached = self.pending is not None and key is self.pending[0] and value is self.pending[1]
        extras = {name for name, given in asked.items() if given is not None and name not in HARMLESS}
        self.plain &= as_cached and mask is None and not extras and asked.get("is_causal") in (None, True)
        self.pending = None


def _attention(
    module: nn.Module,
    query_BQ1D: Tensor,
    key_BH1D: Tensor,
    value_BH1D: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    decode_cache: DecodeCache | _Probe | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """What transformers calls; `decode_cache` comes through the model's own keyword arguments."""
    if scaling is None:
        scaling = query_BQ1D.shape[-1] ** -0.5
    if isinstance(decode_cache, DecodeCache):
        return decode_cache.attend(query_BQ1D, scaling), None
    if isinstance(decode_cache, _Probe):
        decode_cache.note(key_BH1D, value_BH1D, attention_mask, asked)
    batch, heads, tokens, _ = query_BQ1D.shape  # without a cache of ours the probe sees no note, and says no
    return value_BH1D.new_zeros((batch, tokens, heads, value_BH1D.shape[-1])), None


AttentionInterface.register(NAME, _attention)


@contextmanager
def decode_attention(model: PreTrainedModel) -> Iterator[None]:
    """The model with the attention of this module, and with its own again afterwards."""
    own = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = own


def can_share(model: PreTrainedModel) -> bool:
    """Whether the attention above is right for every layer of this model.

    It is not for sliding windows, linear attention and other caches that are not one key and value a token, nor
    where a layer asks for more than plain causal attention (soft-capping, sinks, a position bias), nor for models
    that do not go through transformers' attention interface. The last two are seen in a forward pass of one token.
    """
    config = model.config
    if config.is_encoder_decoder or not getattr(model, "_supports_attention_backend", False):
        return False
    if not accepts(type(model), "position_ids"):
        return False
    layers = DynamicCache(config=config).layers
    if any(type(layer) is not DynamicLayer for layer in layers):
        return False
    probe = _Probe()
    token_11 = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    with torch.no_grad(), decode_attention(model):
        model(input_ids=token_11, position_ids=token_11, past_key_values=probe, use_cache=True, decode_cache=probe)
    return (
        probe.plain
        and probe.pending is None
        and len(probe.shapes) == 1
        and probe.layers_seen == list(range(len(layers)))
    )
