"""Labelled pairs: two texts, two dialogues, or two outputs and a preference."""

from __future__ import annotations

from typing import Any

from rlp_engine.data.columns import Columns, clean_text, identifier, is_number, shown
from rlp_engine.data.dialogues import instruction_of, is_hh_dialogue, messages_of, split_answer
from rlp_engine.data.prompt_shapes import own_meta, prompt_id, to_prompt
from rlp_engine.data.raw_rows import LeftOut, Row
from rlp_engine.data.records import PreferencePair, Prompt
from rlp_engine.errors import DataError

PAIR_META = (
    "annotator", "chosen_generator", "rejected_generator", "generator_1", "generator_2",
    "preference", "p_chosen", "strength", "score_chosen", "score_rejected",
)  # fmt: skip


def to_pair(row: Row, columns: Columns) -> PreferencePair:
    """Raises LeftOut where neither answer is better, or the better one is empty."""
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
    if weight is not None and (not is_number(weight) or weight < 0):
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
    if meta := own_meta(columns):
        return meta
    found = {
        name: columns.values[name] for name in PAIR_META if isinstance(columns.values.get(name), str | int | float)
    }
    found = {
        name: clean_text(value, name) if isinstance(value, str) else value
        for name, value in found.items()
        if isinstance(value, str | bool) or is_number(value)
    }
    return {**found, "pair_id": identifier} if (identifier := pair_id(columns)) else found


def pair_id(columns: Columns) -> str:
    """The id of a pair, which no two pairs share; "" when there is none."""
    return identifier(columns, "pair_id")


def preference_of(columns: Columns) -> float | None:
    """A preference in [1, 2]; None when the annotator gave none. 0 is an old way to write a draw, 1.5."""
    name = columns.name("preference")
    if name is None:
        raise columns.missing("preference", "preference")
    value = columns.values[name]
    if value is None:
        return None
    if not is_number(value) or not (value == 0 or 1 <= value <= 2):
        raise DataError(f"`{name}` is {shown(value)}, want a number from 1 to 2 (0 and 1.5 are draws, null is missing)")
    return 1.5 if value == 0 else float(value)
