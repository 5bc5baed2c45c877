"""Rows of results.json, read for showing: a row may lack anything, and any number may be none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlp_engine.report import names
from rlp_engine.report.html import Markup, tag


def difference_to(
    paired: Sequence[Mapping[str, Any]], name: str, is_other: Any
) -> tuple[float, float, float, str] | None:
    """(name - other, low, high, other) of the first pair of `name` with a policy that `is_other`, either way round."""
    for row in paired:
        a, b = str(row["a"]), str(row["b"])
        if a == name and b != name and is_other(b):
            return row["difference"], row["low"], row["high"], b
        if b == name and a != name and is_other(a):
            return -row["difference"], -row["high"], -row["low"], a
    return None


def is_difference(row: Any) -> bool:
    return (
        isinstance(row, Mapping)
        and {"a", "b"} <= row.keys()
        and all(finite(row.get(key)) for key in ("difference", "low", "high"))
    )


def finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def percent(value: object) -> float | None:
    return 100 * value if finite(value) else None  # type: ignore[operator]


def name_of(row: Mapping[str, Any]) -> str:
    return str(row.get("name", "unnamed"))


def method_of(row: Mapping[str, Any]) -> str:
    return names.parse(name_of(row)).method


def label_of(row: Mapping[str, Any]) -> str:
    return names.parse(name_of(row)).label


def dot(colour: int) -> Markup:
    return tag("span", class_=f"dot c{colour}")


def table(head: Sequence[str], rows: Sequence[Markup]) -> Markup:
    """A table that scrolls when it is wider than the page."""
    head_row = tag("tr", [tag("th", text, scope="col") for text in head])
    return tag("div", tag("table", tag("thead", head_row), tag("tbody", rows)), class_="scroll")
