"""Annotation files -> judgements: who was judged better than whom, by whom, on which instruction.

Reads AlpacaEval's annotations (METHOD 6.3), ours of a run, and tables of numbers without the texts
(`instruction_id`, `generator`, `reference`, `preference`, `len_generator`, `len_reference`). Unlike the annotations
of `readers.py` a judgement without a preference is kept: a win-rate has to count what it drops.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from rlp_engine.config.sections.data import DataFile
from rlp_engine.data.columns import Columns, check_fields, kind_of
from rlp_engine.data.pair_shapes import preference_of
from rlp_engine.data.prompt_shapes import prompt_id
from rlp_engine.data.raw_rows import Fault, Row
from rlp_engine.data.selection import selected_rows
from rlp_engine.errors import DataError


@dataclass(frozen=True, slots=True)
class Judgement:
    """One verdict of an annotator. The texts are not kept, only what tells them apart and their lengths."""

    instruction: str  # digest of the instruction with its input, or "id ..." where the file has no texts
    generator: str  # whose answer was output 2
    reference: str  # whose answer was output 1
    annotator: str
    preference: float | None  # in [1, 2]: 2 = output 2 is better, 1.5 = a draw; None = could not be read (METHOD 6.1)
    subset: str
    characters: int | None  # of output 2
    reference_characters: int | None
    reference_digest: str  # of output 1; "" where the file has no texts


def read_judgements(file: DataFile, base: Path | None = None) -> list[Judgement]:
    """Every judgement of a file, in its order.

    Args:
        file: a JSON, JSONL or parquet file; its `where` and `fields` count.
        base: folder that a relative path starts from; None = the working directory.

    Raises:
        ConfigError: the file is missing.
        DataError: naming file and line of the first row that is no judgement.
    """
    check_fields(file.fields)
    judgements = []
    for row in selected_rows(file, base):
        if isinstance(row, Fault):
            raise DataError(row.what, where=str(row.place), mend=row.mend)
        try:
            judgements.append(_judgement(row, Columns(row.values, file.fields)))
        except DataError as error:
            mend = error.mend.replace("set fields.", "--field ")
            raise DataError(error.what, where=row.where, found=error.found, want=error.want, mend=mend) from error
    if not judgements:
        raise DataError("there are no rows", where=file.path, mend="give a file with judgements, or correct --where")
    return judgements


def merged(instruction: str, given_input: str) -> str:
    """An instruction with its input, as AlpacaEval 1 joins them (METHOD 6.3)."""
    return f"{instruction}\n\n{given_input}" if given_input else instruction


def _judgement(row: Row, columns: Columns) -> Judgement:
    has_texts = columns.name("output_1") is not None and columns.name("output_2") is not None
    output_1, output_2 = (columns.text("output_1"), columns.text("output_2")) if has_texts else ("", "")
    subset = columns.get("subset")
    return Judgement(
        instruction=_instruction(row, columns),
        generator=_name(columns, "generator_2", "generator"),
        reference=_name(columns, "generator_1", "" if has_texts else "reference"),
        annotator=columns.optional_text("annotator"),
        preference=_preference(columns),
        subset=subset if isinstance(subset, str) else "",
        characters=len(output_2) if has_texts else _length(columns, "length_2"),
        reference_characters=len(output_1) if has_texts else _length(columns, "length_1"),
        reference_digest=_digest(output_1) if has_texts else "",
    )


def _instruction(row: Row, columns: Columns) -> str:
    if columns.name("instruction") is not None:
        return _digest(merged(columns.text("instruction"), columns.optional_text("input")))
    if columns.name("input") is not None:  # LLMBar: the instruction is called input
        return _digest(columns.text("input"))
    if columns.name("prompt_id") is None:
        raise columns.missing("instruction", "instruction")
    return f"id {prompt_id(row, columns)}"


def _name(columns: Columns, ours: str, column: str) -> str:
    """The text of `ours`, or of `column` where the row has no such thing."""
    if columns.name(ours) is None and isinstance(columns.values.get(column), str):
        return columns.values[column]
    return columns.optional_text(ours)


def _preference(columns: Columns) -> float | None:
    """As `preference_of`; NaN, which a parquet column may hold in place of a null, is none."""
    name = columns.name("preference")
    value = None if name is None else columns.values[name]
    return None if isinstance(value, float) and math.isnan(value) else preference_of(columns)


def _length(columns: Columns, ours: str) -> int | None:
    value = columns.get(ours)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"`{columns.name(ours)}` is {kind_of(value)}, want a number of characters")
    return value


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
