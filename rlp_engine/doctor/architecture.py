"""The shape of a model from its config alone: built on torch's meta device, where tensors have sizes and no memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from rlp_engine.config.schema import RunConfig
from rlp_engine.config.sections.model import ModelConfig
from rlp_engine.doctor.shapes import Models, ModelShape
from rlp_engine.errors import ModelError
from rlp_engine.models.loading import load_config
from rlp_engine.stages.spec import StageSpec


def read_shape(source: Path | str, model: ModelConfig, *, is_policy: bool = False) -> ModelShape:
    """The shape of a folder's or a hub model's config.json; no weight is read.

    Raises:
        ModelError: there is no such model, or transformers cannot build one of its kind.
    """
    config = load_config(source, model)
    try:
        return shape_of(config, is_policy=is_policy, trust_remote_code=model.trust_remote_code)
    except (ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ModelError(
            "the model's config does not tell its shape",
            where=str(source),
            found=" ".join(str(error).split())[:200],
            mend="name a decoder that transformers can build from its config.json",
        ) from error


def scratch_shape(model: ModelConfig) -> ModelShape:
    """Of the model that `sft` will build; its tokenizer is taken to fill [model.scratch]'s vocabulary."""
    scratch = model.scratch
    config = LlamaConfig(
        vocab_size=scratch.vocab_size,
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.num_layers,
        num_attention_heads=scratch.num_heads,
        num_key_value_heads=scratch.num_kv_heads or scratch.num_heads,
        tie_word_embeddings=scratch.tie_embeddings,
    )
    return shape_of(config, is_policy=True)


def shape_of(config: PreTrainedConfig, *, is_policy: bool, **options: Any) -> ModelShape:
    """
    Args:
        is_policy: count it with a language model head; what is no decoder has none.
    """
    with torch.device("meta"):
        backbone = AutoModel.from_config(config, **options)
        whole = AutoModelForCausalLM.from_config(config, **options) if is_policy else backbone
    text = config.get_text_config()
    linears = tuple((name, *_widths(layer)) for name, layer in backbone.named_modules() if _is_linear(layer))
    heads = text.num_attention_heads
    return ModelShape(
        parameters=_count(whole),
        backbone=_count(backbone),
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=heads,
        key_value_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        intermediate=getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size,
        is_gated=any(name.endswith("gate_proj") for name, _, _ in linears),
        linears=linears,
    )


def _count(module: nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | Conv1D)


def _widths(layer: nn.Module) -> tuple[int, int]:
    """(in, out); GPT-2's Conv1D keeps its weight the other way round."""
    first, second = layer.weight.shape
    return (first, second) if isinstance(layer, Conv1D) else (second, first)


def read_models(config: RunConfig, pipeline: Sequence[StageSpec], run_dir: Path | None) -> tuple[Models, list[str]]:
    """The shapes that the stages load, and what could not be read and is not counted.

    Raises:
        ModelError: the config of the policy, of a reward model or of a judge cannot be read.
    """
    made = run_dir / "sft" / "model" if run_dir else None
    if config.sft.ready_model:
        policy = read_shape(config.sft.ready_model, config.model, is_policy=True)
    elif made and (made / "config.json").is_file():
        policy = read_shape(made, config.model, is_policy=True)
    elif config.model.init == "scratch":
        policy = scratch_shape(config.model)
    else:
        policy = read_shape(config.model.path, config.model, is_policy=True)
    base = config.train_rm.base_model
    reward = read_shape(base, config.model) if base else policy
    judges = {"judge": config.evaluate.judge, "annotator": config.collect.annotator}
    if config.collect.source == "file":
        del judges["annotator"]
    shapes = {
        name: read_shape(judge.path, config.model)
        for name, judge in judges.items()
        if judge.kind == "reward-model" and judge.path
    }
    equivalence, notes = _equivalence(config, pipeline)
    notes += [
        f"the {name} is not counted: its path is not set"
        for name, judge in judges.items()
        if judge.kind == "reward-model" and not judge.path
    ]
    return Models(policy, reward, shapes.get("judge"), shapes.get("annotator"), equivalence), notes


def _equivalence(config: RunConfig, pipeline: Sequence[StageSpec]) -> tuple[ModelShape | None, list[str]]:
    settings = config.synthesize.equivalence
    is_asked = any(spec.params.get("selection") in ("spg", "select-all") for spec in pipeline)
    if not is_asked or settings.kind not in ("nli", "embedding"):
        return None, []
    origin = ModelConfig(path=settings.model, revision=settings.revision)
    try:
        return read_shape(settings.model, origin), []
    except ModelError as error:  # often a hub model that is not there yet: the other stages can be reckoned
        return None, [f"the {settings.kind} model of synthesize is not counted: {error.what} ({error.where})"]
