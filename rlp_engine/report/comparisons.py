"""Policies against each other: paired differences, and win-rate against KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlp_engine.report import figures, names
from rlp_engine.report.figures import Mark
from rlp_engine.report.html import Markup, number, tag
from rlp_engine.report.rows import finite, label_of, method_of, name_of

Z95 = 1.96  # standard errors to a 95% interval of a mean
MOST_DIFFERENCES = 14  # rows of the figure; all of them are in the table below it


def differences(paired: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> Markup | None:
    if not paired:
        return None
    marks = [
        Mark(
            f"{names.parse(str(row['a'])).label} − {names.parse(str(row['b'])).label}",
            row["difference"],
            row["low"],
            row["high"],
            colours.get(names.parse(str(row["a"])).method, 0),
        )
        for row in paired
    ]
    cells = [
        tag(
            "tr",
            tag("td", mark.label),
            tag("td", number(mark.value, 2, sign=True)),
            tag("td", f"{number(mark.low, 2, sign=True)} to {number(mark.high, 2, sign=True)}"),
        )
        for mark in marks
    ]
    head = tag("tr", tag("th", "Difference"), tag("th", "Points"), tag("th", "95 % interval"))
    figure = figures.forest(
        marks[:MOST_DIFFERENCES],
        name="paired",
        title="Paired differences of win-rates with 95 % intervals",
        x_label="difference in win-rate, percentage points",
        zero=0.0,
    )
    return tag(
        "div",
        tag("h3", "Paired differences"),
        tag("p", "Same instructions for both policies; bootstrap over instructions, 95 % intervals.", class_="muted"),
        tag("figure", figure, class_="wide"),
        tag(
            "details",
            tag("summary", "Numbers"),
            tag("div", tag("table", tag("thead", head), tag("tbody", cells)), class_="scroll"),
        ),
    )


def against_kl(policies: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> Markup | None:
    """Where on the over-optimisation curve each policy stands; policies of one reward model are joined."""
    placed: list[tuple[Mark, float]] = []
    families: dict[str, list[tuple[Mark, float]]] = {}
    for row in policies:
        x = 0.0 if name_of(row) == "sft" and row.get("kl") is None else row.get("kl")
        if finite(x) and finite(row.get("win_rate")):
            half = Z95 * row["standard_error"] if finite(row.get("standard_error")) else 0.0
            rate = row["win_rate"]
            family, _, point = name_of(row).partition("-kl")
            label = "" if point else label_of(row)
            mark = Mark(label, rate, rate - half, rate + half, colours.get(method_of(row), 0))
            placed.append((mark, float(x)))
            families.setdefault(family, []).append(placed[-1])
    if len(placed) < 2:
        return None
    figure = figures.scatter(
        placed,
        joined=[sorted(line, key=lambda item: item[1]) for line in families.values() if len(line) > 1],
        name="kl",
        title="Win-rate against KL from the SFT policy",
        x_label="KL from the SFT policy, nats a sequence",
        y_label="win-rate, %",
    )
    return tag(
        "div",
        tag("h3", "What was gained, and how far the policy went for it"),
        tag(
            "p",
            "Up and to the left is better; bars are 95 % intervals over instructions. A line joins what one reward "
            "model trained at several weights of the KL penalty; the named point is the run's own.",
            class_="muted",
        ),
        tag("figure", figure, class_="wide"),
    )
