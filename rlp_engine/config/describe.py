"""A config told to people: every key with its source and meaning, and the arithmetic of its batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from rlp_engine.config.load import Resolved
from rlp_engine.config.schema import MULTI_VIEW, RunConfig


@dataclass(frozen=True)
class KeyRow:
    """One key of run.toml."""

    key: str
    value: Any
    source: str
    description: str
    safe: bool  # it cannot change a result, so changing it makes no stage stale


def describe(resolved: Resolved) -> list[KeyRow]:
    """Every key, in the order of the schema."""
    return [
        KeyRow(key, value, resolved.sources[key], description, safe)
        for key, value, description, safe in _fields(resolved.config, "")
    ]


def _fields(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any, str, bool]]:
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}.")
            continue
        if isinstance(value, dict):
            value = {key: _as_written(item) for key, item in value.items()}
        extra = info.json_schema_extra
        yield f"{prefix}{name}", value, info.description or "", isinstance(extra, dict) and bool(extra.get("safe"))


def _as_written(value: Any) -> Any:
    """A table of a free-form key as run.toml would hold it."""
    return value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value


def differences(left: Resolved, right: Resolved) -> list[tuple[str, Any, Any]]:
    """(key, left's value, right's value) where two configs differ."""
    pairs = zip(describe(left), describe(right), strict=True)
    return [(a.key, a.value, b.value) for a, b in pairs if a.value != b.value]


def batch_arithmetic(config: RunConfig) -> list[str]:
    """How the batch words divide, a line a stage. All sizes count samples."""
    lines = [
        _training("sft", "demonstrations", config.sft.epochs, config.sft.minibatch, config.sft.microbatch),
        _training("train_rm", "pairs", config.train_rm.epochs, config.train_rm.minibatch, config.train_rm.microbatch),
        _training(
            "refine_rm", "pairs", config.refine_rm.epochs, config.refine_rm.minibatch, config.refine_rm.microbatch
        ),
    ]
    views = config.refine_rm.multi_view
    if any(method in MULTI_VIEW for method in config.methods):
        lines.append(
            f"refine_rm.multi_view: {views.pairs_per_step} policy pairs beside each minibatch"
            f" = {_parts(views.pairs_per_step, views.microbatch)}"
        )
    ppo = config.ppo
    updates = ppo.epochs * (ppo.rollout_batch // ppo.minibatch)
    lines.append(
        f"ppo: {ppo.steps} steps x rollout batch of {ppo.rollout_batch} = {ppo.steps * ppo.rollout_batch} answers;"
        f" {ppo.epochs} epochs x {ppo.rollout_batch}/{ppo.minibatch} = {updates} optimizer steps a rollout,"
        f" {ppo.steps * updates} in all; minibatch of {ppo.minibatch}"
        f" = {_parts(ppo.minibatch, ppo.microbatch)}"
    )
    limits = config.generation
    lines.append(
        f"generation: prompts to {limits.max_prompt_tokens} + answers to {limits.max_new_tokens} tokens"
        f" = {limits.max_prompt_tokens + limits.max_new_tokens}; {limits.rows} rows side by side;"
        f" {config.sample.num_per_prompt} answers an instruction in sample"
    )
    return lines


def _training(stage: str, unit: str, epochs: int, minibatch: int, microbatch: int) -> str:
    passes = "1 pass" if epochs == 1 else f"{epochs} passes"
    return f"{stage}: {passes}; minibatch of {minibatch} {unit} = {_parts(minibatch, microbatch)}"


def _parts(whole: int, part: int) -> str:
    count = whole // part
    return f"{count} {'microbatch' if count == 1 else 'microbatches'} of {part}"
