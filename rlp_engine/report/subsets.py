"""Win-rates on every subset of the test instructions and on further test sets (the paper's Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlp_engine.report import figures, names
from rlp_engine.report.comparisons import Z95
from rlp_engine.report.figures import Mark
from rlp_engine.report.html import Markup, number, tag
from rlp_engine.report.rows import dot, finite, label_of, method_of, name_of, table

Groups = list[tuple[str, list[Mapping[str, Any]]]]  # what is judged, and the policies' rows


def by_subset(results: Mapping[str, Any], colours: Mapping[str, int]) -> Markup | None:
    """A figure and a table, a row a subset; nothing when the results have neither subsets nor further test sets."""
    groups = _groups(results)
    if not groups:
        return None
    drawn = [(f"{label} ({_most(rows)})", [_mark(row, colours) for row in rows]) for label, rows in groups]
    figure = figures.grouped_forest(
        drawn, name="subsets", title="Win-rates on subsets and test sets", x_label="win-rate, %"
    )
    shown = list(dict.fromkeys(name_of(row) for _, rows in groups for row in rows))
    parsed = [names.parse(name) for name in shown]
    legend = [tag("span", dot(colours.get(name.method, 0)), f" {name.label}  ") for name in parsed]
    return tag(
        "div",
        tag("h3", "Where it was won"),
        tag(
            "p",
            "The same policies on each part of the test instructions, and on further test sets (in brackets: judged "
            "instructions); from top to bottom as named here. Intervals: 95 %, over instructions.",
            class_="muted",
        ),
        tag("p", legend, class_="muted"),
        tag("figure", figure, class_="wide"),
        tag("details", tag("summary", "Numbers"), _numbers(groups, shown)),
    )


def _groups(results: Mapping[str, Any]) -> Groups:
    groups: Groups = []
    _add(groups, "", results.get("subsets"))
    for test_set in results.get("test_sets") or []:
        name = str(test_set.get("test_set", "test set"))
        groups.append((f"{name}: all", _judged(test_set.get("policies"))))
        _add(groups, f"{name}: ", test_set.get("subsets"))
    return [(label, rows) for label, rows in groups if rows]


def _add(groups: Groups, prefix: str, subsets: Any) -> None:
    for row in subsets or []:
        groups.append((f"{prefix}{row.get('subset') or '(none)'}", _judged(row.get("policies"))))


def _judged(policies: Any) -> list[Mapping[str, Any]]:
    """Policies with a win-rate; those of a curve would crowd the figure."""
    return [
        row for row in policies or [] if finite(row.get("win_rate")) and not names.parse(name_of(row)).kl_coefficient
    ]


def _mark(row: Mapping[str, Any], colours: Mapping[str, int]) -> Mark:
    half = Z95 * row["standard_error"] if finite(row.get("standard_error")) else 0.0
    rate = row["win_rate"]
    return Mark(label_of(row), rate, max(0.0, rate - half), min(100.0, rate + half), colours.get(method_of(row), 0))


def _most(rows: Sequence[Mapping[str, Any]]) -> str:
    return number(max(row.get("n", 0) for row in rows))


def _numbers(groups: Groups, shown: Sequence[str]) -> Markup:
    rows = []
    for label, judged in groups:
        found = {name_of(row): row for row in judged}
        cells = [
            tag("td", f"{number(row['win_rate'], 1)} ± {number(row.get('standard_error'), 1)}" if row else "–")
            for row in (found.get(name) for name in shown)
        ]
        rows.append(tag("tr", tag("td", label), tag("td", _most(judged)), cells))
    return table(["Subset", "n", *(names.parse(name).label for name in shown)], rows)
