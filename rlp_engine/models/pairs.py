"""Two sequences with the same beginning in one row, so that a prompt is read once for both its answers.

    ids         prompt  first answer  second answer
    positions   0 .. p  p .. p + a    p .. p + b
    attention   causal, and the second answer does not see the first

The states are those of two separate rows. Shapes: P pairs, L tokens of a row, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlp_engine.models.inputs import accepts, position_limit

WORTH = 0.9  # of the tokens of separate rows: with fewer tokens than that the mask, which costs time, pays
_CAN_PACK: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class PairRows(NamedTuple):
    """What a backbone is given, and where the two sequences of each row end."""

    ids_PL: Tensor
    positions_PL: Tensor
    mask_P1LL: Tensor  # added to the attention scores: 0 or the least number of the dtype
    last_P2: Tensor

    def to(self, device: torch.device) -> PairRows:
        return PairRows(*(tensor.to(device) for tensor in self))


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that both begin with; each keeps at least one of its own."""
    limit = min(len(first), len(second)) - 1
    return next((place for place in range(limit) if first[place] != second[place]), limit)


def pair_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens of the row of a pair."""
    return len(first) + len(second) - shared_prefix(first, second)


def pack_pairs(
    first: Sequence[Sequence[int]], second: Sequence[Sequence[int]], pad_id: int, dtype: torch.dtype
) -> PairRows:
    """One row a pair, padded on the right.

    Args:
        dtype: of the model, and so of the mask.
    """
    prefixes = [shared_prefix(*pair) for pair in zip(first, second, strict=True)]
    rows = [[*a, *b[prefix:]] for a, b, prefix in zip(first, second, prefixes, strict=True)]
    length = max(map(len, rows))
    ids_PL = torch.full((len(rows), length), pad_id)
    for place, row in enumerate(rows):
        ids_PL[place, : len(row)] = torch.tensor(row)
    column_L = torch.arange(length)
    prefix_P1 = torch.tensor(prefixes)[:, None]
    break_P1 = torch.tensor([len(a) for a in first])[:, None]  # where the second answer begins
    is_second_PL = column_L >= break_P1
    positions_PL = torch.where(is_second_PL, column_L - break_P1 + prefix_P1, column_L)
    is_first_PL = (column_L >= prefix_P1) & ~is_second_PL
    hidden_PLL = is_second_PL[:, :, None] & is_first_PL[:, None, :] | (column_L[None, :] > column_L[:, None])
    mask_PLL = torch.zeros(hidden_PLL.shape, dtype=dtype).masked_fill_(hidden_PLL, torch.finfo(dtype).min)
    last_P2 = torch.tensor([[len(a) - 1, len(row) - 1] for a, row in zip(first, rows, strict=True)])
    return PairRows(ids_PL, positions_PL, mask_PLL[:, None], last_P2)


def is_worth_packing(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> bool:
    """Whether the rows of these pairs hold clearly fewer tokens, padding included, than separate ones."""
    separate = 2 * max(max(map(len, first)), max(map(len, second)))
    return max(pair_length(*pair) for pair in zip(first, second, strict=True)) < WORTH * separate


def can_pack(backbone: PreTrainedModel, length: int) -> bool:
    """Whether this backbone gives rows of so many tokens the states of separate ones.

    It must take positions and a mask of our own, and every layer must see the whole text. What the config does
    not say is found by trying, once a model. Ask before a training engine takes the model: ranks must go through
    its layers together from then on.
    """
    limit = position_limit(backbone)
    if limit is not None and length > limit:
        return False
    if backbone not in _CAN_PACK:
        _CAN_PACK[backbone] = _sees_everything(backbone) and _try(backbone)
    return _CAN_PACK[backbone]


def _sees_everything(backbone: PreTrainedModel) -> bool:
    config = backbone.config.get_text_config()
    layers = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    whole = set(layers) <= {"full_attention", "global"} if layers else getattr(config, "sliding_window", None) is None
    has_own_mask = accepts(type(backbone), "position_ids") and config._attn_implementation in ("sdpa", "eager")
    return whole and has_own_mask and not getattr(config, "alibi", False)


@torch.no_grad()
def _try(backbone: PreTrainedModel) -> bool:
    """Compare the states of a packed pair with those of separate rows."""
    ids = [token % backbone.config.get_text_config().vocab_size for token in (3, 1, 4, 1, 5, 9, 2)]
    first, second = [*ids[:3], ids[3], ids[4]], [*ids[:3], ids[5], ids[6]]
    was_training = backbone.training
    backbone.eval()  # adapters may drop out
    try:
        packed_2D = pair_states(backbone, pack_pairs([first], [second], 0, backbone.dtype).to(backbone.device))
        both = torch.tensor([first, second], device=backbone.device)
        separate_2D = backbone(input_ids=both, use_cache=False).last_hidden_state[:, -1]
    finally:
        backbone.train(was_training)
    tolerance = 1e-4 if backbone.dtype == torch.float32 else 5e-2
    return torch.allclose(packed_2D.float(), separate_2D.float(), rtol=tolerance, atol=tolerance)


def pair_states(backbone: PreTrainedModel, rows: PairRows) -> Tensor:
    """(2P, D): the states at the ends of all first sequences, then of all second ones."""
    hidden_PLD = backbone(
        input_ids=rows.ids_PL, attention_mask=rows.mask_P1LL, position_ids=rows.positions_PL, use_cache=False
    ).last_hidden_state
    row_P = torch.arange(len(hidden_PLD), device=hidden_PLD.device)
    return torch.cat([hidden_PLD[row_P, last_P] for last_P in rows.last_P2.unbind(1)])
