"""When do two answers to one prompt mean the same? The question that clustering asks, in batches.

exact-match   equal once case, punctuation, spaces and articles are set aside
embedding     cosine of sentence embeddings                            (embedding.py)
nli           an entailment model, both ways; the paper's choice       (nli.py)
sandbox       the sandbox knows what each of its answers means
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from rlp_engine.data.records import Prompt

SameMeaning = Callable[[Prompt, str, str], bool]


class Comparison(NamedTuple):
    """A cluster's first member and an answer that may join it."""

    prompt: Prompt
    leader: str
    answer: str


class Equivalence(Protocol):
    """Answers batches of comparisons. The answer may depend on the comparison only, not on the batch."""

    def begin(self, block: str) -> None:
        """A new block of prompts: nothing of the one before is remembered, so that memory and what is counted depend
        on the blocks alone, not on how many came before them in this process. `block` names what is in it."""
        ...

    def equivalent(self, comparisons: Sequence[Comparison]) -> list[bool]:
        """One verdict a comparison, in order."""
        ...

    def counts(self) -> dict[str, int]:
        """What it took so far, since it was made: model calls, texts cut; empty where nothing is worth counting.

        The same numbers whether or not an earlier attempt left answers behind.
        """
        ...

    def recalled(self) -> int:
        """How many of these calls an earlier attempt or stage had made already."""
        ...


class ExactMatch:
    """Equal after `normalised`."""

    def begin(self, block: str) -> None:
        """It remembers nothing."""

    def equivalent(self, comparisons: Sequence[Comparison]) -> list[bool]:
        return [normalised(c.leader) == normalised(c.answer) for c in comparisons]

    def counts(self) -> dict[str, int]:
        return {}

    def recalled(self) -> int:
        return 0


class KnownMeaning:
    """A world that knows what its answers mean (rlp_engine/sandbox)."""

    def __init__(self, same_meaning: SameMeaning) -> None:
        self._same_meaning = same_meaning

    def begin(self, block: str) -> None:
        """It remembers nothing."""

    def equivalent(self, comparisons: Sequence[Comparison]) -> list[bool]:
        return [bool(self._same_meaning(*c)) for c in comparisons]

    def counts(self) -> dict[str, int]:
        return {}

    def recalled(self) -> int:
        return 0


ARTICLES = frozenset({"a", "an", "the"})
KEPT_PUNCTUATION = frozenset("#%&@")  # C# is not C, 5% is not 5
REMOVED_PUNCTUATION = frozenset("'’.")  # don't, U.S.: part of a word; other punctuation parts words


def normalised(text: str) -> str:
    """Text without case, punctuation, articles and extra spaces (as SQuAD's exact match, but numbers keep
    their meaning: 3.5 is not 35, -5 is not 5)."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(_kept(folded, i) for i in range(len(folded)))
    words = kept.split()
    content = [word for word in words if word not in ARTICLES]
    return " ".join(content or words) or folded.strip()  # an answer that is only "A", or only "?!", stays itself


def _kept(text: str, i: int) -> str:
    char = text[i]
    if not unicodedata.category(char).startswith("P") or char in KEPT_PUNCTUATION:
        return char
    before = text[i - 1] if i else " "
    after = text[i + 1] if i + 1 < len(text) else " "
    if after.isdigit() and (before.isdigit() or (char == "-" and not before.isalnum())):
        return char
    return "" if char in REMOVED_PUNCTUATION else " "
