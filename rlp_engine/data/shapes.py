"""Raw rows -> records: which kind of row a file should hold, and what is wrong with one that does not.

A row is recognised by its columns, whatever file it came from (README of the formats: METHOD 6.3).
`fields` overrides the guess: {our name: their column}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from rlp_engine.data.columns import Columns, clean_text, is_number, kind_of
from rlp_engine.data.dialogues import messages_of, split_answer
from rlp_engine.data.pair_shapes import preference_of, to_pair
from rlp_engine.data.prompt_shapes import to_prompt
from rlp_engine.data.raw_rows import LeftOut, Row
from rlp_engine.data.records import Annotation, Demonstration, ModelOutput, Record, Sample, SampleSet
from rlp_engine.errors import DataError

Kind = Literal["prompts", "demonstrations", "preferences", "samples", "outputs", "annotations"]

# What a row of each kind must have, in the words of an error.
WANTED: dict[str, str] = {
    "prompts": "instruction (and input, reference, prompt_id where there are any)",
    "demonstrations": "instruction, output (and input)",
    "preferences": "instruction or prompt, chosen, rejected; or instruction, output_1, output_2, preference",
    "samples": "instruction, output (a list of answers)",
    "outputs": "instruction, output, generator",
    "annotations": "instruction, output_1, output_2, preference",
}


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
    if not is_number(values.get("logprob")):
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
    "preferences": to_pair,
    "samples": _sample_set,
    "outputs": _model_output,
    "annotations": _annotation,
}
