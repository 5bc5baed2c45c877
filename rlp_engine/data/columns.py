"""Names of columns in public data, and the lookup of one row's columns by our names."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Mapping
from itertools import islice
from typing import Any

from rlp_engine.errors import ConfigError, DataError

# Our name -> the columns it may stand in, best first.
COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt_id": ("prompt_id", "instruction_id", "question_id", "id"),
    "pair_id": ("pair_id", "id"),
    "instruction": ("instruction", "prompt", "question", "query", "text", "turns"),
    "input": ("input",),
    "messages": ("messages", "conversations", "conversation"),
    "reference": ("reference", "output", "response", "completion", "answer"),
    "output": ("output", "response", "completion", "answer"),
    "outputs": ("output", "outputs", "samples", "responses", "completions"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "output_1": ("output_1",),
    "output_2": ("output_2",),
    "preference": ("preference", "label"),
    "weight": ("weight",),
    "generator": ("generator",),
    "generator_1": ("generator_1",),
    "generator_2": ("generator_2",),
    "annotator": ("annotator",),
    "length_1": ("length_1", "len_1", "len_reference"),
    "length_2": ("length_2", "len_2", "len_generator"),
    "subset": ("subset", "dataset", "category"),
}


MOST_NAMES = 30  # columns that a message lists
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 4, 4
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


def shown(value: Any) -> str:
    """A value of a stranger's file for a message: its repr, shortened, however long or deep it is."""
    return _SHORT.repr(value)


class Columns:
    """The columns of one row, looked up by our names."""

    def __init__(self, values: Mapping[str, Any], fields: Mapping[str, str]) -> None:
        self.values = values
        self.fields = fields

    def name(self, ours: str) -> str | None:
        """The column that holds `ours` in this row, or None. A mapped column must be there."""
        if ours in self.fields:
            theirs = self.fields[ours]
            if theirs not in self.values:
                raise self.missing(ours, theirs)
            return theirs
        taken = set(self.fields.values())
        return next((name for name in COLUMNS[ours] if name in self.values and name not in taken), None)

    def get(self, ours: str) -> Any:
        name = self.name(ours)
        return None if name is None else self.values[name]

    def text(self, ours: str, *, blank: bool = True) -> str:
        """Text that must be there. `blank`: it may hold nothing but white space."""
        name = self.name(ours)
        if name is None:
            raise self.missing(ours, ours)
        text = clean_text(self.values[name], name)
        if not blank and not text.strip():
            raise DataError(f"`{name}` is empty")
        return text

    def optional_text(self, ours: str) -> str:
        """Text, or "" when the column is not there or null."""
        name = self.name(ours)
        return "" if name is None or self.values[name] is None else clean_text(self.values[name], name)

    def missing(self, ours: str, theirs: str) -> DataError:
        near = difflib.get_close_matches(theirs, [key for key in self.values if len(key) <= 60], n=1, cutoff=0.7)
        key = f"fields.{ours}={near[0] if near else 'COLUMN'}"
        return DataError(
            f"the row has no `{theirs}`",
            found=_names(self.values),
            mend=f"rename the field, or set {key}",
        )


def _names(values: Mapping[str, Any]) -> str:
    names = [name if name.isprintable() and len(name) <= 60 else shown(name) for name in islice(values, MOST_NAMES)]
    more = [f"and {len(values) - MOST_NAMES:,} more"] if len(values) > MOST_NAMES else []
    return ", ".join([*names, *more]) or "no columns"


def clean_text(value: Any, name: str) -> str:
    """The text without carriage returns at line ends. Raises DataError when it is none, or no valid Unicode."""
    if not isinstance(value, str):
        raise DataError(f"`{name}` is {kind_of(value)}, want text")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"`{name}` holds half of a surrogate pair at character {error.start + 1}") from error
    return value.replace("\r\n", "\n").rstrip("\r") if "\r" in value else value


def check_fields(fields: Mapping[str, str]) -> None:
    """Raise ConfigError when `fields` maps a name that is none of ours."""
    for name in fields:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise ConfigError(f"`fields` maps an unknown name: {name}", mend=f"{hint}Names: {', '.join(COLUMNS)}")


def kind_of(value: Any) -> str:
    """A JSON value's kind, in words."""
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return (
        "null"
        if value is None
        else names.get(type(value), "binary" if isinstance(value, bytes) else type(value).__name__)
    )


def identifier(columns: Columns, ours: str) -> str:
    """The id that a row gives itself, text or a whole number; "" when there is none."""
    value = columns.get(ours)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"`{columns.name(ours)}` is {'empty' if value == '' else kind_of(value)}, want an id")
    return clean_text(str(value), ours)


def is_number(value: Any) -> bool:
    """Whether it is a number that float64 holds; NaN, infinities and larger whole numbers are none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
