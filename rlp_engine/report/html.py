"""A small HTML writer in which text is always escaped, because the page holds what models wrote.

`tag(name, *children, **attributes)` escapes every child and attribute that is not `Markup`. Only this module,
`svg.py` (matplotlib's figures) and `page.py` (our style sheet) make `Markup`, so a text from a run can never become an
element.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable

VOID = frozenset({"meta", "br", "col"})


class Markup(str):
    """HTML that is already safe."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def escape(text: object) -> Markup:
    """Any text as HTML text or attribute value."""
    return text if isinstance(text, Markup) else Markup(html.escape(clean(str(text)), quote=True))


def clean(text: str) -> str:
    """Text that can be written as UTF-8 and shown: lone surrogates and control characters become U+FFFD.

    Bidirectional controls go too: they could make a text run backwards into its neighbours.
    """
    return "".join("\N{REPLACEMENT CHARACTER}" if _unsafe(char) else char for char in text)


def _unsafe(char: str) -> bool:
    if char in "\n\t":
        return False
    return (
        unicodedata.category(char) in ("Cc", "Cs") or char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """An element. `class_` is `class`; other underscores become hyphens; None attributes are left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        assert not children, name
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Child) -> Markup:
    """Children one after the other; lists are opened, None is nothing."""
    if children is None:
        return Markup("")
    if isinstance(children, str | int | float):
        return escape(children)
    return Markup("".join(join(child) for child in children))


def number(value: object, digits: int = 2, *, sign: bool = False, unit: str = "") -> str:
    """A number for people; a dash for what is missing or not finite."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return "–"
    digits = 0 if isinstance(value, int) else digits
    rounded = round(value, digits) + 0.0  # adding 0.0 turns the negative zero into zero
    text = f"{rounded:{'+' if sign and rounded else ''},.{digits}f}"
    return text.replace("-", "−").replace(",", "\N{NARROW NO-BREAK SPACE}") + unit


def clip(text: str, characters: int = 900) -> str:
    """The beginning of a long text, and how much was left out."""
    if len(text) <= characters:
        return text
    return f"{text[:characters].rstrip()} … [{len(text) - characters:,} more characters]"
