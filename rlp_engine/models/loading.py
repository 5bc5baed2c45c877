"""Transformers models and tokenizers from a folder or a hub id, with errors that a user can act on.

Folders must hold safetensors. A hub model that has none is read with torch's weights-only unpickler, which
builds tensors and runs no code (microsoft/deberta-large-mnli, the paper's NLI model, is published so).
Code that comes with a model, or that its config would fetch, runs only when the config says so
(docs/SECURITY.md), and no weight is ever newly initialised unless the caller expects it. Dropout in
the model's own config is set to 0 (METHOD 5.2: off everywhere); adapters have their own setting.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.errors import ModelError
from rlp_engine.models.model_folders import (
    adapter_error,
    readable_errors,
    refuse_fetched_kernels,
    refuse_folder_without_safetensors,
    refuse_odd_files,
    resolve_source,
)
from rlp_engine.models.plausible import refuse_more_than_stored, refuse_odd_sizes

if not torch.cuda.is_available():  # else DeepSpeed, where it is installed, prints that it looked for a GPU
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


def load_config(source: Path | str, model: ModelConfig, **overrides: Any) -> PreTrainedConfig:
    """The transformers config of `source`, its dropout rates set to 0.

    Raises:
        ModelError: if there is no such folder or hub model, or it cannot be read.
    """
    place = resolve_source(source)
    refuse_odd_files(place)
    _refuse_odd_sizes(place, model)
    with readable_errors(place):
        config = AutoConfig.from_pretrained(place, **_origin(place, model), **overrides)
        parts = {id(part): part for part in (config, config.get_text_config())}.values()
        settings = [(part, key, value) for part in parts for key, value in part.to_dict().items()]
    if not model.trust_remote_code:
        refuse_fetched_kernels(config, place)
    for part, key, value in settings:
        if isinstance(value, float) and ("dropout" in key or key.endswith("pdrop")):
            setattr(part, key, 0.0)
    config.return_dict = True  # what reads the outputs reads them by name
    return config


def load_module(
    auto_class: Any,
    source: Path | str,
    model: ModelConfig,
    *,
    device: torch.device | str = "cpu",
    config: PreTrainedConfig | None = None,
    new_weights: tuple[str, ...] = (),
    dtype: str = "",
) -> PreTrainedModel:
    """A model in evaluation mode on `device`, with every weight from the checkpoint.

    Args:
        auto_class: AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, ...
        source: a folder, or a hub id (its revision is `model.revision` when it is `model.path`).
        model: dtype, attention, gradient checkpointing and trust; its own `path` is not read.
        config: from `load_config`, when the caller has changed it.
        new_weights: names of weights that the checkpoint may lack; they are then transformers' random ones.
        dtype: a name in torch, where it is not `model.dtype`.

    Raises:
        ModelError: if it cannot be loaded whole: missing, not safetensors, an adapter, another architecture.
    """
    place = resolve_source(source)
    refuse_folder_without_safetensors(place)
    refuse_odd_files(place)
    config = config if config is not None else load_config(source, model)
    options: dict[str, Any] = {"config": config, "dtype": getattr(torch, dtype or model.dtype), "weights_only": True}
    options["use_safetensors"] = True if Path(place).is_dir() else None  # None: safetensors where there are some
    if model.attn_implementation != "auto":
        options["attn_implementation"] = model.attn_implementation
    with readable_errors(place), quiet():
        if Path(place).is_dir():
            refuse_more_than_stored(auto_class, config, Path(place), trust_remote_code=model.trust_remote_code)
        module, info = auto_class.from_pretrained(place, output_loading_info=True, **options, **_origin(place, model))
    missing = sorted(set(info["missing_keys"]) - set(new_weights))
    if missing:
        raise ModelError(
            f"{len(missing)} weights of {type(module).__name__} are not in the checkpoint and would be random",
            where=place,
            found=f"nothing for {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}",
            mend="name a model of this kind: a causal language model as policy, "
            "a sequence classifier with one label as reward model",
        )
    if getattr(module, "_hf_peft_config_loaded", False):
        raise adapter_error(place)
    if model.gradient_checkpointing:
        module.activation_checkpointing_enable({"use_reentrant": False})
    return module.to(device)


def load_tokenizer(source: Path | str, model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of `source`.

    Raises:
        ModelError: if there is none.
    """
    place = resolve_source(source)
    refuse_odd_files(place)
    _refuse_odd_sizes(place, model)  # transformers reads the config for a tokenizer, too
    with readable_errors(place, "tokenizer"), quiet():
        tokenizer = AutoTokenizer.from_pretrained(place, **_origin(place, model))
        tokenizer.decode(tokenizer("a b")["input_ids"])  # its settings are read when it is used
    return tokenizer


def _origin(place: str, model: ModelConfig) -> dict[str, Any]:
    revision = model.revision if place == model.path else "main"
    return {"revision": revision, "trust_remote_code": model.trust_remote_code}


def _refuse_odd_sizes(place: str, model: ModelConfig) -> None:
    if Path(place).is_dir() and not (Path(place) / "config.json").is_file():
        return  # told by who needs it
    with readable_errors(place):
        values, _ = PreTrainedConfig.get_config_dict(place, revision=_origin(place, model)["revision"])
        refuse_odd_sizes(values, place)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no library warnings (what matters in them is checked and raised as an error).

    Also keeps transformers from asking a public service to convert a hub model without safetensors.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    conversion = os.environ.get("DISABLE_SAFETENSORS_CONVERSION")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        if conversion is None:
            del os.environ["DISABLE_SAFETENSORS_CONVERSION"]
        else:
            os.environ["DISABLE_SAFETENSORS_CONVERSION"] = conversion


def hidden_size(module: nn.Module) -> int:
    """D: width of the hidden states."""
    return module.config.get_text_config().hidden_size
