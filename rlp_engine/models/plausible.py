"""Sizes in a model's config.json that no model has, told before anything is built by them.

transformers believes a config: it builds a billion layers one by one, or asks for the memory of a table that the
checkpoint does not hold. Its message, where it has one, comes from the middle of a forward pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig

from rlp_engine.errors import ModelError

_LAYERS, _HEADS, _WIDTH = 2_000, 1 << 14, 1 << 20
MOST = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), _HEADS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "d_ff", "head_dim"), _WIDTH),
    "vocab_size": 1 << 24,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "sliding_window"), 1 << 28),
}
"""Key of a config.json -> the largest value taken for possible; the smallest is 1. Far above any model there is."""

# A tied head counts once or twice, and a quantised checkpoint keeps up to eight numbers in one.
MOST_TIMES_STORED = 16


def refuse_odd_sizes(config: Mapping[str, Any], place: str) -> None:
    """Every size in a config.json, also of a model within a model, is a whole number that a model could have.

    Raises:
        ModelError: naming the key.
    """
    for key, value in _sizes(config):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST[key.rpartition(".")[2]]:
            raise ModelError(
                "the model's config.json has a size that no model has",
                where=f"{place}, key {key}",
                found=f"{value!r}"[:100],
                want=f"a whole number from 1 to {MOST[key.rpartition('.')[2]]:,}",
                mend="take the config.json that the model was saved with",
            )


def _sizes(config: Mapping[str, Any], prefix: str = "", levels: int = 4) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every size that is given; architectures whose layers differ give a list of them."""
    for key, value in config.items():
        if isinstance(value, Mapping) and levels:
            yield from _sizes(value, f"{prefix}{key}.", levels - 1)
        elif key in MOST and value is not None:
            values = value if isinstance(value, list) else [value]
            yield from ((f"{prefix}{key}", one) for one in values)


def refuse_more_than_stored(auto_class: Any, config: PreTrainedConfig, folder: Path, **options: Any) -> None:
    """A folder's config describes about as many parameters as its safetensors hold.

    Else transformers would make the missing ones, and have no memory left, before it tells that they are missing.

    Raises:
        ModelError: it describes many times more.
    """
    stored = 0
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as file:
            stored += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    if not stored:
        return  # transformers tells that there are no weights
    with torch.device("meta"):  # sizes and no memory
        described = sum(parameter.numel() for parameter in auto_class.from_config(config, **options).parameters())
    if described > MOST_TIMES_STORED * stored:
        raise ModelError(
            "the model's config.json describes far more weights than the checkpoint holds",
            where=str(folder),
            found=f"{described:,} parameters described, {stored:,} stored",
            mend="take the config.json that the model was saved with",
        )


def _weight_files(folder: Path) -> list[Path]:
    """Those that transformers would read, of a folder whose index is known to name safetensors beside it."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return []
    return [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
