"""Raw rows -> records: which columns mean what, and what is wrong with a row.

A row is recognised by its columns, whatever file it came from (README of the formats: METHOD 6.3).
`fields` overrides the guess: {our name: their column}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlp_engine.config.nesting import deeper_than
from rlp_engine.data.columns import Columns, clean_text, kind_of, shown
from rlp_engine.data.dialogues import instruction_of, is_hh_dialogue, messages_of, split_answer
from rlp_engine.data.raw_rows import Row
from rlp_engine.data.records import Demonstration, PreferencePair, Prompt, Sample
from rlp_engine.errors import DataError

Kind = Literal["prompts", "demonstrations", "preferences", "samples", "outputs", "annotations"]


@dataclass(frozen=True, slots=True)
class SampleSet:
    """Several answers of one policy to one instruction (AlpacaFarm's multisamples)."""

    prompt: Prompt
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """One answer of a named model (AlpacaEval's model_outputs.json)."""

    prompt: Prompt
    output: str
    generator: str = ""


@dataclass(frozen=True, slots=True)
class Annotation:
    """A judgement of two answers (AlpacaEval): 1 = the first is better, 2 = the second, 1.5 = a draw."""

    prompt: Prompt
    output_1: str
    output_2: str
    preference: float
    generator_1: str = ""
    generator_2: str = ""
    annotator: str = ""


Record = Prompt | Demonstration | PreferencePair | SampleSet | Sample | ModelOutput | Annotation


class LeftOut(Exception):
    """The row is sound, and no use: it is left out, and the reason is told."""

    def __init__(self, why: str, *, counts_as_good: bool = False) -> None:
        super().__init__(why)
        self.counts_as_good = counts_as_good


# What a row of each kind must have, in the words of an error.
WANTED: dict[str, str] = {
    "prompts": "instruction (and input, reference, prompt_id where there are any)",
    "demonstrations": "instruction, output (and input)",
    "preferences": "instruction or prompt, chosen, rejected; or instruction, output_1, output_2, preference",
    "samples": "instruction, output (a list of answers)",
    "outputs": "instruction, output, generator",
    "annotations": "instruction, output_1, output_2, preference",
}
PAIR_META = (
    "annotator", "chosen_generator", "rejected_generator", "generator_1", "generator_2",
    "preference", "p_chosen", "strength", "score_chosen", "score_rejected",
)  # fmt: skip


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
        meta={**_own_meta(columns), **meta},
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


def _own_meta(columns: Columns) -> dict[str, Any]:
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
    return _identifier(columns, "prompt_id") or f"row-{row.number:06d}"


def _identifier(columns: Columns, ours: str) -> str:
    value = columns.get(ours)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"`{columns.name(ours)}` is {'empty' if value == '' else kind_of(value)}, want an id")
    return clean_text(str(value), ours)


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


def _demonstration(row: Row, columns: Columns) -> Demonstration:
    if columns.name("instruction") is None and (dialogue := columns.name("messages")) is not None:
        _, output = split_answer(messages_of(columns.values[dialogue], dialogue), dialogue)
        output = clean_text(output, dialogue)
    elif isinstance(value := columns.get("output"), list) and value and isinstance(value[0], dict):
        _, output = split_answer(messages_of(value, "output"), "output")
    else:
        output = columns.text("output")
    prompt = to_prompt(row, columns)
    if not output.strip():
        raise LeftOut("the output is empty: left out")
    return Demonstration(prompt, output)


def _pair(row: Row, columns: Columns) -> PreferencePair:
    if columns.name("chosen") is not None and columns.name("rejected") is not None:
        prompt, chosen, rejected = _chosen_and_rejected(row, columns)
    elif columns.name("chosen") is None and columns.name("output_1") is not None:
        prompt = to_prompt(row, columns)
        first, second = columns.text("output_1"), columns.text("output_2")
        preference = preference_of(columns)
        if preference is None or preference == 1.5:
            raise LeftOut("no preference, or a draw: left out", counts_as_good=True)
        chosen, rejected = (first, second) if preference < 1.5 else (second, first)
    else:
        lacking = "chosen" if columns.name("chosen") is None else "rejected"
        raise columns.missing(lacking, lacking)
    if chosen.strip() == rejected.strip():
        raise LeftOut("the two answers are equal, so neither is better: left out")
    if not chosen.strip():
        raise LeftOut("the chosen answer is empty: left out")
    weight = columns.get("weight")
    if weight is not None and (not _is_number(weight) or weight < 0):
        raise DataError(f"`weight` is {shown(weight)}, want a number of at least 0")
    return PreferencePair(prompt, chosen, rejected, 1.0 if weight is None else float(weight), _pair_meta(columns))


def _chosen_and_rejected(row: Row, columns: Columns) -> tuple[Prompt, str, str]:
    """A pair as two texts, or as two dialogues that are equal up to their last turn."""
    values = {ours: columns.get(ours) for ours in ("chosen", "rejected")}
    is_dialogue = [
        isinstance(value, list | dict) or (isinstance(value, str) and is_hh_dialogue(value))
        for value in values.values()
    ]
    if not all(is_dialogue):
        return to_prompt(row, columns), columns.text("chosen"), columns.text("rejected")
    before, answers = {}, {}
    for ours, value in values.items():
        before[ours], answers[ours] = split_answer(messages_of(value, ours), ours)
        answers[ours] = clean_text(answers[ours], ours)
    if before["chosen"] != before["rejected"]:
        raise LeftOut("the two dialogues differ before their last answer: left out")
    if not before["chosen"]:  # the answers alone; the question stands in a column of its own
        return to_prompt(row, columns), answers["chosen"], answers["rejected"]
    instruction, meta = instruction_of(before["chosen"], "chosen")
    instruction = clean_text(instruction, "chosen")
    if not instruction.strip():
        raise DataError("the dialogue in `chosen` asks nothing")
    prompt = Prompt(prompt_id=prompt_id(row, columns), instruction=instruction, meta=meta)
    return prompt, answers["chosen"], answers["rejected"]


def _pair_meta(columns: Columns) -> dict[str, Any]:
    if meta := _own_meta(columns):
        return meta
    found = {
        name: columns.values[name] for name in PAIR_META if isinstance(columns.values.get(name), str | int | float)
    }
    found = {
        name: clean_text(value, name) if isinstance(value, str) else value
        for name, value in found.items()
        if isinstance(value, str | bool) or _is_number(value)
    }
    return {**found, "pair_id": identifier} if (identifier := pair_id(columns)) else found


def pair_id(columns: Columns) -> str:
    """The id of a pair, which no two pairs share; "" when there is none."""
    return _identifier(columns, "pair_id")


def preference_of(columns: Columns) -> float | None:
    """A preference in [1, 2]; None when the annotator gave none. 0 is an old way to write a draw, 1.5."""
    name = columns.name("preference")
    if name is None:
        raise columns.missing("preference", "preference")
    value = columns.values[name]
    if value is None:
        return None
    if not _is_number(value) or not (value == 0 or 1 <= value <= 2):
        raise DataError(f"`{name}` is {shown(value)}, want a number from 1 to 2 (0 and 1.5 are draws, null is missing)")
    return 1.5 if value == 0 else float(value)


def _is_number(value: Any) -> bool:
    """Whether it is a number that float64 holds; NaN, infinities and larger whole numbers are none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _sample_set(row: Row, columns: Columns) -> SampleSet | Sample:
    if {"draw", "token_ids"} <= columns.values.keys():
        return _our_sample(columns.values)
    name = columns.name("outputs")
    if name is None:
        raise columns.missing("outputs", "output")
    value = columns.values[name]
    if not isinstance(value, list):
        raise DataError(f"`{name}` is {kind_of(value)}, want a list of answers")
    outputs = tuple(clean_text(item, f"{name}[{index}]") for index, item in enumerate(value))
    if sum(bool(output.strip()) for output in outputs) < 2:
        raise DataError(f"`{name}` has fewer than 2 answers with text: nothing to compare")
    return SampleSet(to_prompt(row, columns), outputs)


def _our_sample(values: Mapping[str, Any]) -> Sample:
    wanted = {"prompt_id": str, "draw": int, "text": str, "token_ids": list, "finish_reason": str}
    for name, kind in wanted.items():
        if type(values.get(name)) is not kind:
            raise DataError(f"`{name}` is {kind_of(values.get(name))} and does not fit a sample of ours")
    if not all(type(token) is int for token in values["token_ids"]):
        raise DataError("`token_ids` holds something that is no whole number")
    if not _is_number(values.get("logprob")):
        raise DataError(f"`logprob` is {kind_of(values.get('logprob'))}, want a number")
    return Sample(**{name: values[name] for name in wanted}, logprob=float(values["logprob"]))


def _model_output(row: Row, columns: Columns) -> ModelOutput:
    return ModelOutput(to_prompt(row, columns), columns.text("output"), columns.optional_text("generator"))


def _annotation(row: Row, columns: Columns) -> Annotation:
    prompt = to_prompt(row, columns)
    outputs = columns.text("output_1"), columns.text("output_2")
    preference = preference_of(columns)
    if preference is None:
        raise LeftOut("no preference: dropped from the count, as in AlpacaEval", counts_as_good=True)
    names = {name: columns.optional_text(name) for name in ("generator_1", "generator_2", "annotator")}
    return Annotation(prompt, *outputs, preference, **names)


SHAPES: dict[str, Callable[[Row, Columns], Record]] = {
    "prompts": lambda row, columns: to_prompt(row, columns, with_reference=True),
    "demonstrations": _demonstration,
    "preferences": _pair,
    "samples": _sample_set,
    "outputs": _model_output,
    "annotations": _annotation,
}
