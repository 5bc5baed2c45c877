"""Where a model is read from, and what is refused before anything in it is believed (docs/SECURITY.md)."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # the error alone: nothing here unpickles
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from rlp_engine.config.local_paths import expanded, kind_at
from rlp_engine.errors import ModelError

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


def resolve_source(source: Path | str) -> str:
    """A local model folder's path, or a hub id as it is.

    Raises:
        ModelError: if it is neither, or an adapter, which is no whole model.
    """
    local = expanded(source)
    kind = kind_at(local)
    if kind == "folder":
        if kind_at(local / "adapter_config.json") == "file":
            raise adapter_error(str(local))
        return str(local)
    if isinstance(source, Path) or kind != "nothing" or not _HUB_ID.fullmatch(source):
        raise ModelError(
            "a file stands where a model folder should be" if kind == "file" else "there is no such model folder",
            where=str(local),
            mend="give a folder with config.json and *.safetensors, or a hub id such as OWNER/NAME",
        )
    return source


def adapter_error(place: str) -> ModelError:
    """Which base it fits, only its own words say: adding it to another would give numbers and no error."""
    mend = "merge it into its base model and save that: PeftModel.merge_and_unload().save_pretrained(PATH)"
    return ModelError("this is an adapter, not a whole model", where=place, mend=mend)


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
        with readable_errors(place):
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


def refuse_fetched_kernels(config: PreTrainedConfig, place: str) -> None:
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


def refuse_folder_without_safetensors(place: str) -> None:
    """Raises ModelError: no weights, pickled ones, or an adapter. A hub id is let be."""
    folder = Path(place)
    if (folder / "adapter_config.json").exists():  # transformers would follow it to its base model and to its weights
        raise adapter_error(place)
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
def readable_errors(place: str, part: str = "model") -> Iterator[None]:
    """Turn what transformers raises into a ModelError; out of memory or disk stays what it is."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        is_of_tokenizers = type(error) is Exception  # the library in Rust has no better word
        if not (is_of_tokenizers or isinstance(error, _LOADING_ERRORS)):
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
