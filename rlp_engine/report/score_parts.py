"""Where a score comes from: correctness, or style alone?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlp_engine.report.html import Markup, number, tag
from rlp_engine.report.rows import dot, finite, label_of, method_of, table


def parts(policies: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> Markup | None:
    """Where a score comes from: correctness, or style alone?"""
    found = list(dict.fromkeys(part for row in policies for part in row.get("parts") or {}))
    if not found:
        return None
    head = [text.replace("_", " ") for text in ("Policy", *found)]
    rows = [
        tag(
            "tr",
            tag("td", dot(colours.get(method_of(row), 0)), label_of(row)),
            [tag("td", number((row.get("parts") or {}).get(part), 3)) for part in found],
        )
        for row in policies
    ]
    return tag(
        "div",
        tag("h3", "What the score is made of"),
        tag("p", "Mean of each part of the judge's score.", class_="muted"),
        table(head, rows),
    )


def gains(policies: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> Markup | None:
    """How much of what a policy gained over the SFT policy is correctness, and how much style."""
    gained = [(row, row["gain"]) for row in policies if isinstance(row.get("gain"), Mapping)]
    gained = [(row, gain) for row, gain in gained if finite(gain.get("score"))]
    if not gained:
        return None
    in_parts = any(finite(gain.get("correct")) for _, gain in gained)
    head = ["Policy", "Score gained", *(("Correctness", "Style", "Share of correctness") if in_parts else ())]
    rows = [
        tag(
            "tr",
            tag("td", dot(colours.get(method_of(row), 0)), label_of(row)),
            tag("td", f"{number(gain['score'], 3, sign=True)} ± {number(gain.get('standard_error'), 3)}"),
            [tag("td", number(gain.get(part), 3, sign=True)) for part in ("correct", "style") if in_parts],
            tag("td", number(_share(gain), 0, unit=" %")) if in_parts else None,
        )
        for row, gain in gained
    ]
    return tag(
        "div",
        tag("h3", "Gained over the SFT policy"),
        tag(
            "p",
            "Difference of the mean scores on the same instructions, with its paired standard error"
            + (", and what of it is correctness and what style." if in_parts else "."),
            class_="muted",
        ),
        table(head, rows),
    )


def _share(gain: Mapping[str, Any]) -> float | None:
    """Per cent of a gain that is correctness; none where a part was lost, which is no share of a whole."""
    correct, style = gain.get("correct"), gain.get("style")
    if not finite(correct) or not finite(style) or min(correct, style) < 0 or gain["score"] <= 0:
        return None
    return 100 * correct / gain["score"]
