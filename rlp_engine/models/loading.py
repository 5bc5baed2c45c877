"""Transformers models and tokenizers from a folder or a hub id, with errors that a user can act on.

Folders must hold safetensors. A hub model that has none is read with torch's weights-only unpickler, which
builds tensors and runs no code (microsoft/deberta-large-mnli, the paper's NLI model, is published so).
Code that comes with a model, or that its config would fetch, runs only when the config says so
(docs/SECURITY.md), and no weight is ever newly initialised unless the caller expects it. Dropout in
the model's own config is set to 0 (METHOD 5.2: off everywhere); adapters have their own setting.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # the error alone: nothing here unpickles
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rlp_engine.config.local_paths import expanded, kind_at
from rlp_engine.config.schema import ModelConfig
from rlp_engine.errors import ModelError
from rlp_engine.models.plausible import refuse_more_than_stored, refuse_odd_sizes

PAD_TOKEN = "[PAD]"
if not torch.cuda.is_available():  # else DeepSpeed, where it is installed, prints that it looked for a GPU
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")  # in transformers itself
MOST_JSON_BYTES = 1 << 28  # of one file: the largest tokenizer.json are some 40 MB
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# What transformers raises for a folder, a file or a repository that is not what it should be.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    ImportError,
    LookupError,
    TypeError,  # a config.json that holds a list, or text where a number should be
    AttributeError,
    ArithmeticError,  # no attention heads
    AssertionError,
    UnpicklingError,  # torch's weights-only reader met something else than weights
    HfHubHTTPError,
    SafetensorError,
    StrictDataclassError,
)


def load_config(source: Path | str, model: ModelConfig, **overrides: Any) -> PreTrainedConfig:
    """The transformers config of `source`, its dropout rates set to 0.

    Raises:
        ModelError: if there is no such folder or hub model, or it cannot be read.
    """
    place = resolve_source(source)
    refuse_odd_files(place)
    _refuse_odd_sizes(place, model)
    with _readable_errors(place):
        config = AutoConfig.from_pretrained(place, **_origin(place, model), **overrides)
        parts = {id(part): part for part in (config, config.get_text_config())}.values()
        settings = [(part, key, value) for part in parts for key, value in part.to_dict().items()]
    if not model.trust_remote_code:
        _refuse_fetched_kernels(config, place)
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
    _refuse_folder_without_safetensors(place)
    refuse_odd_files(place)
    config = config if config is not None else load_config(source, model)
    options: dict[str, Any] = {"config": config, "dtype": getattr(torch, dtype or model.dtype), "weights_only": True}
    options["use_safetensors"] = True if Path(place).is_dir() else None  # None: safetensors where there are some
    if model.attn_implementation != "auto":
        options["attn_implementation"] = model.attn_implementation
    with _readable_errors(place), quiet():
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
        raise _adapter_error(place)
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
    with _readable_errors(place, "tokenizer"), quiet():
        tokenizer = AutoTokenizer.from_pretrained(place, **_origin(place, model))
        tokenizer.decode(tokenizer("a b")["input_ids"])  # its settings are read when it is used
    return tokenizer


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase, module: PreTrainedModel) -> None:
    """Give tokenizer and model a pad token that is not an EOS, in place (METHOD 4.5).

    A model without one gets "[PAD]", whose input and output embedding rows are the means of the old
    rows [AF]: with the EOS as padding, masks and the last-token lookup would be off by one.

    Raises:
        ModelError: the tokenizer knows tokens that the model has no embedding for.
    """
    rows, largest = module.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ModelError(
            f"the tokenizer has tokens up to {largest}, the model has embeddings for {rows}",
            where=str(tokenizer.name_or_path),
            found=f"no embedding for {tokenizer.convert_ids_to_tokens(largest)!r}",
            mend="give model and tokenizer that belong together, or resize_token_embeddings, train and save",
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in eos_ids(tokenizer, module):
        old_size = len(tokenizer)
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
        _set_mean_rows(module, new_id=tokenizer.pad_token_id, old_size=old_size)
    module.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    module.config.pad_token_id = tokenizer.pad_token_id
    if getattr(module, "generation_config", None) is not None:
        module.generation_config.pad_token_id = tokenizer.pad_token_id


def eos_ids(tokenizer: PreTrainedTokenizerBase, module: PreTrainedModel) -> tuple[int, ...]:
    """Every token that ends a response: the tokenizer's EOS first, then the generation config's.

    Raises:
        ModelError: the generation config names something else than tokens.
    """
    generation = getattr(module, "generation_config", None)
    named = getattr(generation, "eos_token_id", None)
    others = [token for token in (named if isinstance(named, list) else [named]) if token is not None]
    if not all(isinstance(token, int) for token in others):
        raise ModelError(
            "generation_config.json names an end of a text that is no token",
            where=str(tokenizer.name_or_path),
            found=f"eos_token_id = {named!r}"[:100],
            want="a token id, or a list of them",
        )
    return tuple(dict.fromkeys(token for token in [tokenizer.eos_token_id, *others] if token is not None))


def resolve_source(source: Path | str) -> str:
    """A local model folder's path, or a hub id as it is.

    Raises:
        ModelError: if it is neither, or an adapter, which is no whole model.
    """
    local = expanded(source)
    kind = kind_at(local)
    if kind == "folder":
        if kind_at(local / "adapter_config.json") == "file":
            raise _adapter_error(str(local))
        return str(local)
    if isinstance(source, Path) or kind != "nothing" or not _HUB_ID.fullmatch(source):
        raise ModelError(
            "a file stands where a model folder should be" if kind == "file" else "there is no such model folder",
            where=str(local),
            mend="give a folder with config.json and *.safetensors, or a hub id such as OWNER/NAME",
        )
    return source


def _adapter_error(place: str) -> ModelError:
    """Which base it fits, only its own words say: adding it to another would give numbers and no error."""
    mend = "merge it into its base model and save that: PeftModel.merge_and_unload().save_pretrained(PATH)"
    return ModelError("this is an adapter, not a whole model", where=place, mend=mend)


def _set_mean_rows(module: PreTrainedModel, *, new_id: int, old_size: int) -> None:
    embeddings = module.get_input_embeddings()
    old_size = min(old_size, embeddings.num_embeddings)  # rows beyond the vocabulary are unused padding
    if new_id >= embeddings.num_embeddings:
        with quiet():
            module.resize_token_embeddings(new_id + 1, mean_resizing=False)
    tables = [module.get_input_embeddings(), module.get_output_embeddings()]
    with torch.no_grad():
        for weight in {id(table.weight): table.weight for table in tables if table is not None}.values():
            # On the CPU always: the same row to the bit on every device, so that `base_digest` knows the base again.
            weight[new_id] = weight[:old_size].cpu().float().mean(dim=0).to(weight)


def _origin(place: str, model: ModelConfig) -> dict[str, Any]:
    revision = model.revision if place == model.path else "main"
    return {"revision": revision, "trust_remote_code": model.trust_remote_code}


def _refuse_odd_sizes(place: str, model: ModelConfig) -> None:
    if Path(place).is_dir() and not (Path(place) / "config.json").is_file():
        return  # told by who needs it
    with _readable_errors(place):
        values, _ = PreTrainedConfig.get_config_dict(place, revision=_origin(place, model)["revision"])
        refuse_odd_sizes(values, place)


def refuse_odd_files(place: str) -> None:
    """A model folder holds plain files, and what its JSON says of itself is small.

    Raises:
        ModelError: a file is a device or a pipe, which would be read forever; a JSON file is too large to be one of
            a model's; the index of the weights names something else than safetensors beside it.
    """
    folder = Path(place)
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if not (path.is_file() or path.is_dir() or path.is_symlink()):
            raise ModelError("a model folder holds something that is no file", where=str(path), mend="take it out")
        if path.is_symlink() and path.exists() and not (path.is_file() or path.is_dir()):
            raise ModelError("a link in a model folder leads to something that is no file", where=str(path))
        if path.suffix == ".json" and path.is_file() and path.stat().st_size > MOST_JSON_BYTES:
            found = f"{path.stat().st_size:,} bytes"
            raise ModelError("a JSON file of a model is too large", where=str(path), found=found)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        with _readable_errors(place):
            named = json.loads(index.read_bytes())["weight_map"].values()
        odd = sorted({str(name) for name in named if not _is_weights_file(name)})
        if odd:
            raise ModelError(
                "the index of a model names files that are not its weights",
                where=str(index),
                found=", ".join(odd[:3]),
                want="names of *.safetensors in the same folder",
                mend="load it in transformers, see whether you trust it, and call save_pretrained",
            )


def _is_weights_file(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _refuse_fetched_kernels(config: PreTrainedConfig, place: str) -> None:
    """transformers takes `attn_implementation` of a config for a repository of compiled code, and loads it."""
    parts = [config, *(part for part in vars(config).values() if isinstance(part, PreTrainedConfig))]
    for part in parts:
        named = part._attn_implementation
        if named is not None and named not in ATTENTION:
            raise ModelError(
                "the model's config names an attention that would be fetched and run",
                where=place,
                found=f"attn_implementation = {named!r}",
                want=f"one of {', '.join(ATTENTION)}",
                mend="take it out of config.json; or --set model.trust_remote_code=true, only if you trust it",
            )


def _refuse_folder_without_safetensors(place: str) -> None:
    folder = Path(place)
    if (folder / "adapter_config.json").exists():  # transformers would follow it to its base model and to its weights
        raise _adapter_error(place)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    raise ModelError(
        "the model folder holds no safetensors weights",
        where=place,
        found=", ".join(pickles[:3]) or "no weights at all",
        mend="load it in transformers and call save_pretrained: pickled weights can run code and are never read"
        if pickles
        else "give a folder with config.json and *.safetensors",
    )


@contextmanager
def _readable_errors(place: str, part: str = "model") -> Iterator[None]:
    """Turn what transformers raises into a ModelError; out of memory or disk stays what it is."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if (
            not isinstance(error, _LOADING_ERRORS) and type(error) is not Exception
        ):  # tokenizers raises Exception itself
            raise
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
            raise
        text = " ".join(str(error).split())
        raise ModelError(
            f"the {part} cannot be loaded", where=place, found=text[:400], mend=_mend(place, text)
        ) from error


def _mend(place: str, message: str) -> str:
    if "trust_remote_code" in message:
        return "--set model.trust_remote_code=true runs the model's own code on this machine: only if you trust it"
    if "ignore_mismatched_sizes" in message:
        return "config.json and weights do not belong together, or it is a classifier where a language model is wanted"
    if Path(place).is_dir():
        return "check that the folder is whole: config.json, *.safetensors, tokenizer files"
    return (
        f"if {place} is a folder, check its path; if it is a hub model, check its name, the network "
        "(HF_HUB_OFFLINE) and, for a gated one, `hf auth login`"
    )


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
