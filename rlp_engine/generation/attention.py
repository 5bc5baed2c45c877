"""Attention of one new token a row over the buffers of cache.py, in place of the model's own while it decodes.

transformers calls a registered function by name for every architecture that goes through its attention
interface. A probe tells whether a model does, and asks for nothing but plain causal attention; all others
decode through plain.py.

Shapes: B rows, C rows of a cohort, P prompts, M most rows of a prompt, Q heads of queries, H heads of keys,
G = Q / H, L prompt columns, W columns of a row, D numbers a head. Joined letters are one dimension: CH = C * H.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rlp_engine.generation.cache import Cohort, Prefix, RowBuffers
from rlp_engine.models.inputs import accepts

NAME = "rlp_decode"
# What an attention layer may say without asking for more than softmax(scaling * q k) v over all columns.
HARMLESS = {"position_ids", "cache_position", "use_cache", "is_causal", "dropout", "output_attentions"}


class DecodeCache(Cache):
    """What the model takes for its cache while it decodes: keys go to the buffers, attention reads them there."""

    def __init__(self, buffers: RowBuffers, cohorts: Sequence[Cohort]) -> None:
        super().__init__(layers=[])
        self.buffers, self.cohorts = buffers, cohorts

    def update(self, key_BH1D: Tensor, value_BH1D: Tensor, layer_idx: int, *_: Any) -> tuple[Tensor, Tensor]:
        keys_RHWD, values_RHWD = self.buffers.keys_NRHWD[layer_idx], self.buffers.values_NRHWD[layer_idx]
        row = 0
        for cohort in self.cohorts:
            places, rows = slice(cohort.start, cohort.start + cohort.size), slice(row, row + cohort.size)
            keys_RHWD[places, :, cohort.columns] = key_BH1D[rows, :, 0]
            values_RHWD[places, :, cohort.columns] = value_BH1D[rows, :, 0]
            row += cohort.size
        self._layer = layer_idx
        return key_BH1D, value_BH1D

    def attend(self, query_BQ1D: Tensor, scaling: float) -> Tensor:
        """(B, 1, Q, D) of the layer whose keys came last; the new token is the last column of its row."""
        keys_RHWD, values_RHWD = self.buffers.keys_NRHWD[self._layer], self.buffers.values_NRHWD[self._layer]
        heads = keys_RHWD.shape[1]
        parts, row = [], 0
        for cohort in self.cohorts:
            places = slice(cohort.start, cohort.start + cohort.size)
            query_CHGD = query_BQ1D[row : row + cohort.size].reshape(cohort.size * heads, -1, query_BQ1D.shape[-1])
            keys_CHWD = keys_RHWD[places, :, : cohort.columns + 1].flatten(0, 1)
            values_CHWD = values_RHWD[places, :, : cohort.columns + 1].flatten(0, 1)
            if cohort.prefix is None:
                out_CHGD = attend_own(query_CHGD, keys_CHWD, values_CHWD, cohort.bias_CL, scaling)
            else:
                out_CHGD = attend_shared(query_CHGD, keys_CHWD, values_CHWD, cohort.prefix, self._layer, scaling)
            parts.append(out_CHGD.view(cohort.size, 1, query_BQ1D.shape[1], -1))
            row += cohort.size
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def attend_own(
    query_CHGD: Tensor, keys_CHWD: Tensor, values_CHWD: Tensor, bias_CL: Tensor | None, scaling: float
) -> Tensor:
    """softmax(scaling * q k^T) v, (CH, G, D). The first L columns of a row are its prompt, with `bias_CL` added."""
    scores_CHGW = torch.bmm(query_CHGD * scaling, keys_CHWD.transpose(1, 2))
    if bias_CL is not None:
        rows, columns = bias_CL.shape
        scores_CHGW.view(rows, -1, scores_CHGW.shape[-1])[..., :columns] += bias_CL[:, None]
    return torch.bmm(_softmax(scores_CHGW), values_CHWD)


def attend_shared(
    query_CHGD: Tensor, keys_CHWD: Tensor, values_CHWD: Tensor, prefix: Prefix, layer: int, scaling: float
) -> Tensor:
    """The same where a prompt's keys are stored once: its rows' queries are multiplied with them together.

    Queries and weights are laid out on the (P, H, M) grid for that; places of rows that ended hold zeros.
    """
    keys_PHLD, values_PHLD = prefix.keys_PHLD[layer].flatten(0, 1), prefix.values_PHLD[layer].flatten(0, 1)
    pairs, group, size = query_CHGD.shape
    length = keys_PHLD.shape[1]
    query_CHGD = query_CHGD * scaling
    grid = keys_PHLD.shape[0] * prefix.draws
    query_PHMG = query_CHGD.new_zeros((grid, group * size)).index_copy_(
        0, prefix.place_CH, query_CHGD.view(pairs, -1)
    )
    query_PHMG = query_PHMG.view(keys_PHLD.shape[0], -1, size)
    scores_PHMGL = torch.bmm(query_PHMG, keys_PHLD.transpose(1, 2))
    if prefix.bias_PH1L is not None:
        scores_PHMGL += prefix.bias_PH1L
    scores_CHGL = scores_PHMGL.view(grid, -1).index_select(0, prefix.place_CH).view(pairs, group, length)
    scores_CHGW = torch.bmm(query_CHGD, keys_CHWD.transpose(1, 2))
    weights_CHG = _softmax(torch.cat([scores_CHGL, scores_CHGW], dim=-1))
    weights_PHMG = weights_CHG.new_zeros((grid, group * length)).index_copy_(
        0, prefix.place_CH, weights_CHG[..., :length].reshape(pairs, -1)
    )
    out_PHMGD = torch.bmm(weights_PHMG.view(keys_PHLD.shape[0], -1, length), values_PHLD)
    out_CHGD = out_PHMGD.view(grid, -1).index_select(0, prefix.place_CH).view(pairs, group, -1)
    return torch.baddbmm(out_CHGD, weights_CHG[..., length:], values_CHWD)


def _softmax(scores: Tensor) -> Tensor:
    """In float32 whatever the dtype, as transformers' own."""
    return scores.softmax(dim=-1, dtype=torch.float32).to(scores.dtype)


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
        self.plain &= as_cached and mask is None and not extras and asked.get("is_causal", True) is True
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
