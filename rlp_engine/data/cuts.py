"""How many texts a limit of tokens cut: what is cut is told, never silently left out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Cuts:
    """Token sequences so far, and those that were longer than a limit."""

    texts: int = 0
    cut: int = 0

    def keep(self, ids: list[int], limit: int) -> list[int]:
        """The first `limit` ids; counted."""
        self.texts += 1
        self.cut += len(ids) > limit
        return ids[:limit]

    def told(self, what: str, limit: str) -> list[str]:
        """A line for a warning, or none: "3 of 40 WHAT are longer than LIMIT tokens and are cut"."""
        return [f"{self.cut} of {self.texts} {what} are longer than {limit} tokens and are cut"] if self.cut else []
