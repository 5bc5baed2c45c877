"""How deep values are nested, and how long they are. What reads or writes deep ones recurses, and Python crashes."""

from __future__ import annotations

from typing import Any


def deeper_than(value: Any, levels: int) -> bool:
    """Whether lists and dicts are nested deeper than `levels`. Does not recurse itself."""
    layer = [value]
    for _ in range(levels + 1):
        inner = [part.values() if isinstance(part, dict) else part for part in layer if isinstance(part, dict | list)]
        if not inner:
            return False
        layer = [item for part in inner for item in part]
    return True


def longest(value: Any) -> int:
    """Items of the longest list or dict in a value that `deeper_than` has found flat enough."""
    layer, most = [value], 0
    while layer:
        inner = [part.values() if isinstance(part, dict) else part for part in layer if isinstance(part, dict | list)]
        most = max(most, *map(len, inner)) if inner else most
        layer = [item for part in inner for item in part]
    return most
