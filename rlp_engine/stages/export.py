"""A stage's model as a folder of its own, for plain transformers: copied or cast, read back, compared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.errors import ConfigError, ModelError
from rlp_engine.models.loading import load_config, load_tokenizer, quiet
from rlp_engine.run.atomic import committed_dir

CLASSES = {"policy": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification}
PROBE_TOKENS = 16  # length of the sequence on which the copy is compared with the original


def export_model(
    source: Path, target: Path, *, kind: str, dtype: str = "", trust_remote_code: bool = False
) -> dict[str, Any]:
    """Write the model and its tokenizer to `target`, in one rename, after the copy was seen to answer alike.

    Args:
        source: a stage's `model` folder (adapters are merged in it already).
        kind: policy or reward.
        dtype: float32, float16 or bfloat16; "" = as saved.
        trust_remote_code: the run's; without it a model that brings code is refused, and nobody is asked.

    Returns:
        {"path", "parameters", "dtype", "largest_difference"}: of the logits on a fixed sequence of tokens, in float32.

    Raises:
        ConfigError: the target is there already.
        ModelError: the copy lacks weights, or answers otherwise than a change of dtype explains.
    """
    if target.exists():
        raise ConfigError(f"{target} is there already", mend="choose a new folder with --to")
    own = ModelConfig(trust_remote_code=trust_remote_code)
    original = _load(source, kind, own)
    saved_as = original.dtype
    wanted = getattr(torch, dtype) if dtype else saved_as
    target.parent.mkdir(parents=True, exist_ok=True)
    with committed_dir(target) as folder:
        if wanted == saved_as:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        else:
            with quiet():
                _load(source, kind, own).to(wanted).save_pretrained(folder)
                load_tokenizer(source, own).save_pretrained(folder)
        copy = _load(folder, kind, own)
        difference, scale = _difference(original, copy)
        # A cast rounds every weight to `eps` of itself; a lost or shuffled tensor moves the logits by their own size.
        allowed = 0.0 if wanted == saved_as else 20 * max(torch.finfo(wanted).eps, torch.finfo(saved_as).eps) * scale
        if difference > allowed:
            raise ModelError(
                f"the exported {kind} does not answer as the original: logits differ by {difference:.3g}",
                where=str(source),
                want=f"at most {allowed:.3g}",
                mend="export without --dtype, and please report this",
            )
    parameters = sum(parameter.numel() for parameter in copy.parameters())
    name = str(wanted).removeprefix("torch.")
    return {"path": str(target), "parameters": parameters, "dtype": name, "largest_difference": difference}


def _load(folder: Path, kind: str, own: ModelConfig) -> PreTrainedModel:
    load_config(folder, own)  # refuses what would run code
    with quiet():
        model, info = CLASSES[kind].from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=own.trust_remote_code,
            output_loading_info=True,
            dtype="auto",
        )
    if info["missing_keys"]:
        names = ", ".join(sorted(info["missing_keys"])[:3])
        raise ModelError(f"the model lacks weights that a {kind} has", where=str(folder), found=f"no {names}")
    return model.eval()


@torch.no_grad()
def _difference(original: PreTrainedModel, copy: PreTrainedModel) -> tuple[float, float]:
    """(largest difference of the logits, their largest size) on a sequence spread over the vocabulary, in float32."""
    vocabulary = original.config.vocab_size
    ids_1L = torch.linspace(0, vocabulary - 1, min(PROBE_TOKENS, vocabulary)).long()[None]
    attention_1L = torch.ones_like(ids_1L)
    before, after = (m.float()(input_ids=ids_1L, attention_mask=attention_1L).logits for m in (original, copy))
    return float((before - after).abs().max()), float(before.abs().max())
