"""What a transformers forward pass is given, so that padding changes nothing. Shapes: B sequences, L tokens."""

from __future__ import annotations

import inspect
from functools import lru_cache

import torch
from torch import Tensor, nn

from rlp_engine.errors import ModelError


def model_inputs(module: nn.Module, ids_BL: Tensor, attention_BL: Tensor | None) -> dict[str, Tensor]:
    """Keyword arguments for `module`: ids, mask and, where it takes them, positions that skip padding.

    Without positions transformers numbers from the first column, padding included, so a model with
    absolute positions would give another answer for the same text padded on the left.

    Args:
        attention_BL: True = counts. None: all padding is on the right and what the model says there is not
            read. A causal model then needs neither mask nor positions, and attends by its fastest kernel.
    """
    if attention_BL is None:
        return {"input_ids": ids_BL}
    if ids_BL.ndim != 2 or ids_BL.shape != attention_BL.shape:
        raise ValueError(f"want two (B, L) tensors, got {tuple(ids_BL.shape)} and {tuple(attention_BL.shape)}")
    inputs = {"input_ids": ids_BL, "attention_mask": attention_BL.long()}
    if accepts(type(module), "position_ids"):
        inputs["position_ids"] = positions(attention_BL)
    return inputs


def positions(attention_BL: Tensor) -> Tensor:
    """(B, L) int64: 0 for the first live token of each row, counting live tokens only."""
    return (attention_BL.long().cumsum(dim=-1) - 1).clamp(min=0)


def last_live_index(attention_BL: Tensor) -> Tensor:
    """(B,) index of the last live token, whatever the padding side.

    Raises:
        ValueError: if a row has no live token: argmax would silently read its padding.
    """
    live_BL = attention_BL.bool()
    if not bool(live_BL.any(dim=-1).all()):
        raise ValueError("a sequence without a single token cannot be scored")
    columns_L = torch.arange(live_BL.shape[-1], device=live_BL.device)
    return (live_BL * columns_L).argmax(dim=-1)


def position_limit(module: nn.Module) -> int | None:
    """Most tokens a sequence may have, where the config says so."""
    return getattr(module.config.get_text_config(), "max_position_embeddings", None)


def require_positions(module: nn.Module, tokens: int, *, what: str, mend: str) -> None:
    """A sequence of so many tokens has a place in the model for each.

    Args:
        what: the model in words: "the reward model".
        mend: what to lower; `{limit}` in it is the most that fits.

    Raises:
        ModelError: it has not. Some architectures would fail with an index error, others go on untrained.
    """
    limit = position_limit(module)
    if limit is not None and tokens > limit:
        raise ModelError(
            f"a text of {tokens} tokens does not fit in {what}",
            where=str(module.config.name_or_path),
            found=f"max_position_embeddings = {limit}",
            mend=mend.format(limit=limit),
        )


@lru_cache(maxsize=64)
def accepts(module_type: type[nn.Module], argument: str) -> bool:
    """Whether the forward pass of this class names `argument`."""
    return argument in inspect.signature(module_type.forward).parameters
