"""The instruction of a row, with its id and what it carries along."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlp_engine.config.nesting import deeper_than
from rlp_engine.data.columns import Columns, clean_text, identifier, kind_of
from rlp_engine.data.dialogues import instruction_of, messages_of
from rlp_engine.data.raw_rows import Row
from rlp_engine.data.records import Prompt
from rlp_engine.errors import DataError


def to_prompt(row: Row, columns: Columns, *, with_reference: bool = False) -> Prompt:
    """The instruction of a row, in any of the recognised shapes."""
    name = columns.name("instruction")
    value = None if name is None else columns.values[name]
    if isinstance(value, dict) and "instruction" in value:
        return _our_prompt(value, name)
    meta: dict[str, Any] = {}
    given_input = ""
    if name is None and (dialogue := columns.name("messages")) is not None:
        messages = messages_of(columns.values[dialogue], dialogue)
        if messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        instruction, meta = instruction_of(messages, dialogue)
    elif name is None and columns.name("input") is not None:
        name, instruction = columns.name("input"), columns.text("input")  # LLMBar: the instruction is called input
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        instruction, meta = instruction_of(messages_of(value, name), name)
    elif isinstance(value, list) and name == "turns" and len(value) == 1:
        instruction = value[0]
    else:
        instruction, given_input = columns.text("instruction"), columns.optional_text("input")
    instruction = clean_text(instruction, name or "instruction")
    if not instruction.strip():
        raise DataError(f"`{name or 'instruction'}` is empty")
    subset = columns.get("subset")
    if isinstance(subset, str) and subset:
        meta["subset"] = clean_text(subset, "subset")
    if "instruction_id_list" in columns.values:
        meta["demands"] = _demands(columns.values)
    return Prompt(
        prompt_id=prompt_id(row, columns),
        instruction=instruction,
        input=given_input,
        reference=_reference(columns) if with_reference else None,
        meta={**own_meta(columns), **meta},
    )


def _demands(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """IFEval's two columns as [{"id": "keywords:existence", "keywords": [...]}, ...] (evaluation/ifeval).

    Arguments that are null are left out, and whole floats are whole numbers: the hub's parquet has both.
    """
    ids, kwargs = values["instruction_id_list"], values.get("kwargs")
    if not isinstance(ids, list) or not isinstance(kwargs, list) or len(ids) != len(kwargs):
        raise DataError("`instruction_id_list` and `kwargs` are not two lists of one length")
    demands = []
    for name, arguments in zip(ids, kwargs, strict=True):
        if not isinstance(name, str) or not isinstance(arguments, dict | None):
            raise DataError("`instruction_id_list` holds ids, and `kwargs` an object for each")
        known = {key: value for key, value in (arguments or {}).items() if value is not None}
        demand = {"id": name, **{key: _whole(value) for key, value in known.items() if key != "id"}}
        if not _is_writable(demand):
            raise DataError("`kwargs` holds what JSON cannot, or is nested too deeply")
        demands.append(demand)
    return demands


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _reference(columns: Columns) -> str | None:
    """The answer to compare with. A guessed column may hold something else; a mapped one may not."""
    mapped = next((ours for ours in ("reference", "output") if ours in columns.fields), None)
    if mapped is not None:
        return columns.text(mapped)
    value = columns.get("reference")
    return clean_text(value, "reference") if isinstance(value, str) else None


def own_meta(columns: Columns) -> dict[str, Any]:
    """The `meta` of a row that we wrote ourselves; another program's column of that name is let be."""
    meta = columns.values.get("meta")
    return dict(meta) if _is_our_meta(meta) else {}


def _is_our_meta(meta: Any) -> bool:
    """Whether it can be written as JSON again, and holds a dialogue where templates look for one."""
    if not isinstance(meta, dict) or not _is_writable(meta):
        return False
    try:
        return "messages" not in meta or meta["messages"] == messages_of(meta["messages"], "meta.messages")
    except DataError:
        return False


def _is_writable(value: Any) -> bool:
    """Whether our files can hold it: JSON, valid Unicode, and not so deep that writing it fails."""
    if deeper_than(value, 16):
        return False
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError):
        return False
    return True


def prompt_id(row: Row, columns: Columns) -> str:
    """The row's id, or its place in the file when it has none."""
    return identifier(columns, "prompt_id") or f"row-{row.number:06d}"


def _our_prompt(value: dict[str, Any], name: str) -> Prompt:
    """A prompt as our own files hold it, within a pair or a demonstration."""
    inner = Columns(value, {})
    reference, meta = value.get("reference"), value.get("meta", {})
    if not _is_our_meta(meta):
        raise DataError(f"`{name}.meta` is not one that we could have written")
    if not isinstance(value.get("prompt_id"), str):
        raise DataError(f"`{name}.prompt_id` is {kind_of(value.get('prompt_id'))}, want text")
    return Prompt(
        prompt_id=clean_text(value["prompt_id"], "prompt_id"),
        instruction=inner.text("instruction", blank=False),
        input=inner.optional_text("input"),
        reference=None if reference is None else clean_text(reference, "reference"),
        meta=meta,
    )
