"""What an annotator's answer says: a preference in [1, 2] in the order in which the outputs were shown, or None.

1 = the output shown first is better, 2 = the one shown second, 1.5 = a draw. None = the answer cannot be read: it says
neither, or both. Nothing is guessed; such a comparison is dropped and counted (METHOD 6.1).
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlp_engine.config.annotators import Annotator

FIRST, DRAW, SECOND = 1.0, 1.5, 2.0
# What may stand before a label: quotation marks, brackets, and words such as "The better output is".
_OPEN = r"""[\s"'`*(\[#:]*?"""
_LEAD = rf"{_OPEN}(?:(?:the|better|best|one|output|response|answer|option|choice|number|is)\b{_OPEN}){{0,6}}"
# What must follow it: not `1 is worse`.
_END = r"""(?=\s*(?:$|[\n.,;:!)\]"'`*-])|\s+(?:is\s+(?:(?:clearly|slightly|much|far|the)\s+)*better|because|since)\b)"""
_OTHERWISE = r"\s*(?:/|,|&|=|\bor\b|\band\b)\s*"
_FLAT_LIST = re.compile(r"\[[^\[\]]*\]")


def read_preference(annotator: Annotator, text: str, top: Mapping[str, float] | None) -> float | None:
    """The preference in an answer.

    Args:
        top: log-probabilities (nats) of the likeliest tokens in the answer's first place; for parser = `logprobs`.
    """
    if annotator.parser == "logprobs":
        return by_logprobs(top or {}, annotator.labels)
    if annotator.parser == "json":
        return by_field(text, annotator.field, annotator.labels)
    return _BY_TEXT[annotator.parser](text, annotator.labels)


def by_label(text: str, labels: Sequence[str]) -> float | None:
    """The answer begins with a label: `2`, `"2"`, `(2)`, `Output 2 is better`, `The better one is 2`. Not `1 or 2`."""
    one, two = map(re.escape, labels)
    either = "|".join(sorted((one, two), key=len, reverse=True))
    found = re.match(f"{_LEAD}({either})(?!\\w){_END}", text, re.IGNORECASE)
    if found is None or re.match(f"{_OTHERWISE}(?:{either})(?!\\w)", text[found.end() :], re.IGNORECASE):
        return None
    return _of(found[1], labels)


def by_ranking(text: str, labels: Sequence[str]) -> float | None:
    """A list of both models with their ranks, as JSON or Python: `[{"model": "a", "rank": 2}, {"model": "b", ...}]`.

    Rank 1 is the better one; equal ranks are a draw. The list may stand anywhere in the answer, once.
    """
    found = {value for match in _FLAT_LIST.findall(text) if (value := _ranked(_literal(match), labels)) is not None}
    return found.pop() if len(found) == 1 else None


def by_field(text: str, field: str, labels: Sequence[str]) -> float | None:
    """`"field": label` somewhere in the answer, the label in quotation marks or bare; always the same one."""
    pattern = rf"""["']{re.escape(field)}["']\s*:\s*(?:"([^"]*)"|'([^']*)'|([^\s,}}\]]+))"""
    found = {_of(next(filter(None, values), ""), labels) for values in re.findall(pattern, text)}
    return found.pop() if len(found) == 1 else None


def by_logprobs(top: Mapping[str, float], labels: Sequence[str]) -> float | None:
    """1 + P(second label) among the two, from the first token of the answer; a label that is not listed counts as 0."""
    mass = [0.0, 0.0]
    for token, logprob in top.items():
        preference = _of(token, labels)
        if preference is not None:
            mass[preference == SECOND] += math.exp(logprob)
    return FIRST + mass[1] / sum(mass) if sum(mass) > 0 else None


_BY_TEXT: dict[str, Callable[[str, Sequence[str]], float | None]] = {"label": by_label, "ranking": by_ranking}


def _of(word: str, labels: Sequence[str]) -> float | None:
    """Which label a word is, its case and the white space around it aside."""
    word = word.strip().casefold()
    names = [label.strip().casefold() for label in labels]
    return (FIRST, SECOND)[names.index(word)] if word in names else None


def _literal(text: str) -> Any:
    """A JSON or Python literal; None for anything else."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _ranked(value: Any, labels: Sequence[str]) -> float | None:
    """What a list of ranks says; None if it is none of both models."""
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(row, dict) for row in value):
        return None
    ranks = {_of(str(row.get("model")), labels): str(row.get("rank")) for row in value}
    if set(ranks) != {FIRST, SECOND} or not set(ranks.values()) <= {"1", "2"}:
        return None
    if ranks[FIRST] == ranks[SECOND]:
        return DRAW
    return FIRST if ranks[FIRST] == "1" else SECOND
