"""Text for a terminal: cut, aligned, in words. Pure; `render.py` prints it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rlp_engine.safe_text import clean


def one_line(text: str, width: int = 0) -> str:
    """Cleaned, with line breaks and tabs shown as spaces, cut to `width` characters (0 = not cut)."""
    flat = " ".join(clean(text).split())
    return flat if not width or len(flat) <= width else flat[: width - 1] + "…"


def table_lines(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns, two spaces in front and three between; numbers to the right."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(header), *(len(row[i]) for row in cells), 0) for i, header in enumerate(headers)]
    right = [bool(cells) and all(_NUMBER.fullmatch(row[i]) for row in cells if row[i]) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        return ("  " + "   ".join(parts)).rstrip()

    return [line(headers), *(line(row) for row in cells)]


_NUMBER = re.compile(r"[-+±]?[\d ,.]+(e[-+]?\d+)?( ?[%s])?|-")


def number(value: Any) -> str:
    """A number as people read it: four significant digits, whole numbers whole, "-" for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """3.2 s, 4 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(num_bytes: int) -> str:
    """1.5 GiB."""
    amount = float(num_bytes)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def toml_value(value: Any) -> str:
    """A config value as run.toml would spell it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
    return str(value)
