"""How deep values are nested. What reads or writes them recurses, and Python ends that with a crash."""

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
