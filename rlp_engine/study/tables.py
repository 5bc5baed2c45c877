"""The tables of a study as text: the same cells on the terminal and in study.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rlp_engine.safe_text import clean
from rlp_engine.study.aggregate import CONFIDENCE, Difference, Mean, is_curve_point
from rlp_engine.study.matched_kl import MatchedDifference, MatchedMean, family_of
from rlp_engine.study.summary import Compared, Group, Summary

HIDDEN = frozenset({"standard_error", "wins", "losses", "draws", "n", "dropped", "mean_characters"})
"""Last words of columns that say nothing over seeds; study.json has them all."""
FIRST = ("win_rate", "mean_score", "parts.correct", "parts.style", "kl", "mean_tokens", "eos_share")
REST_OF_THE_PARTS = "parts."  # of the judge's score: correct and style stand for them
LABELS = {
    "win_rate": "win-rate %",
    "mean_score": "score",
    "parts.correct": "correct",
    "parts.style": "style",
    "kl": "KL",
    "mean_tokens": "tokens",
    "eos_share": "EOS %",
}
DIGITS = {"win_rate": 1, "kl": 2, "mean_tokens": 1}


@dataclass(frozen=True)
class Table:
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""  # what a reader must know to read it


def tables(summary: Summary) -> list[Table]:
    """All of them, in the order in which they are read: the preset's, then each variant's, then costs."""
    found: list[Table] = []
    for index, group in enumerate(summary.groups):
        of_group = _group_tables(group)
        found += [replace(table, note="") for table in of_group] if index else of_group  # how to read them: once
    return [*found, _costs(summary)] if summary.costs else found


def _group_tables(group: Group) -> list[Table]:
    seeds = f"{len(group.seeds)} seed{'s' if len(group.seeds) != 1 else ''}"
    where = f" ({group.variant})" if group.variant else ""
    found = [
        _numbers(
            f"Policies{where}", group.numbers.get("policies", {}), "policy", f"Mean ± standard error over {seeds}."
        ),
        _numbers(
            f"Reward models{where}: accuracy on the samples of each policy",
            group.numbers.get("reward_models", {}),
            "reward model",
            f"Pairs that the judge tells apart; mean ± standard error over {seeds}.",
        ),
    ]
    for name, rows in group.numbers.items():
        if name not in ("policies", "reward_models"):
            found.append(_numbers(f"{name.replace('_', ' ').capitalize()}{where}", rows, "name", f"Over {seeds}."))
    found.append(_compared(f"Paired differences{where}", group.compared, _AT_OWN_KL))
    if group.against_preset:
        found.append(_compared(f"{group.variant} less the preset", group.against_preset, _AGAINST_PRESET, twin=True))
    if any(map(is_curve_point, group.numbers.get("policies", {}))):
        found.append(_curves(f"The curves{where}", group))
    if group.matched.means:
        found.append(_matched_means(f"At the same KL{where}", group.matched.means))
    title = f"Paired differences at the same KL{where}"
    found.append(_matched_differences(title, group.matched.differences, _BETWEEN))
    found.append(_matched_differences(f"{title}, on the chord from SFT", group.matched.on_chord, _CHORD))
    return [table for table in found if table.rows]


_INTERVAL = (
    f"mean ± standard error over seeds of the per-seed difference; how many seeds are above 0; {100 * CONFIDENCE:.0f}% "
    "bootstrap interval over seeds and, within a seed, instructions. Below ten seeds that interval is too narrow"
)
_AT_OWN_KL = (
    f"Win-rates in points: {_INTERVAL}. The policies stand at the KL that each training ended with, which differs: "
    "more KL alone can buy score."
)
_AGAINST_PRESET = f"The same seed and instructions. Win-rates in points: {_INTERVAL}."
_BETWEEN = (
    "Over the seeds in which both reward models have a policy below and one above that KL: the comparison to judge "
    f"methods by. Win-rates in points: {_INTERVAL}."
)
_CHORD = (
    "All seeds that reach that KL, where in some one of the two has no policy below it and was read between SFT and "
    "its first policy. A straight line in √KL most likely lies below the curve there, so who stands farther out looks "
    "worse than it is: no evidence by itself; a larger ppo.kl_coefficient in --sweep fills the gap."
)
_MATCHED = (
    "Each reward model's policies at several KL coefficients, with SFT at KL 0, are read at the same KL (nats a "
    "sequence), linear in √KL between neighbours of the same seed, never beyond the largest KL of a seed"
)


def _numbers(title: str, rows: Mapping[str, Mapping[str, Mean]], head: str, note: str) -> Table:
    """Rows of means. A curve's points are in the tables at the same KL."""
    shown = {name: row for name, row in rows.items() if not is_curve_point(name)}
    columns = list(dict.fromkeys(column for row in shown.values() for column in row))
    columns = [column for column in FIRST if column in columns] + [c for c in columns if _is_shown(c)]
    cells = [[name, *(mean_text(row.get(column), column) for column in columns)] for name, row in shown.items()]
    return Table(title, [head, *map(_label, columns)], cells if columns else [], note)


def _is_shown(column: str) -> bool:
    if column in FIRST or is_curve_point(column):
        return False
    return column.rpartition(".")[2] not in HIDDEN and not column.startswith(REST_OF_THE_PARTS)


def _label(column: str) -> str:
    """ "accuracy.ppo.accuracy" -> "ppo %"."""
    if column in LABELS:
        return LABELS[column]
    words = column.removesuffix(".accuracy").removeprefix("accuracy.").replace("_", " ")
    return f"{words} %" if _is_share(column) else words


def _is_share(column: str) -> bool:
    """Written as a share of 1, read as per cent."""
    last = column.rpartition(".")[2]
    return last.endswith(("accuracy", "share", "rate")) and column != "win_rate"


def mean_text(mean: Mean | None, column: str = "") -> str:
    """ "81.3 ± 1.3"; "-" for none, and no error for one seed."""
    if mean is None:
        return "-"
    scale = 100 if _is_share(column) else 1
    digits = 1 if scale == 100 else DIGITS.get(column, 3)
    return _with_error(scale * mean.mean, None if mean.standard_error is None else scale * mean.standard_error, digits)


def _with_error(value: float, error: float | None, digits: int, *, sign: bool = False) -> str:
    if math.isnan(value):  # of a judge that gives no scores
        return "-"
    text = _fixed(value, digits, sign=sign)
    return text if error is None else f"{text} ± {error:.{digits}f}"


def _fixed(value: float, digits: int, *, sign: bool = False) -> str:
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"  # + 0.0: never "-0.0"


def _differences(found: Difference, digits: int) -> str:
    return _with_error(found.mean, found.standard_error, digits, sign=True)


def _interval(found: Difference, digits: int) -> str:
    if found.low is None or found.high is None:
        return "-"
    return f"{_fixed(found.low, digits, sign=True)} to {_fixed(found.high, digits, sign=True)}"


def _positive(found: Difference) -> str:
    return "-" if math.isnan(found.mean) else f"{found.positive} of {found.seeds}"


def _compared(title: str, rows: Sequence[Compared], note: str, *, twin: bool = False) -> Table:
    headers = ["difference", "win-rate", "95% interval", "seeds > 0", "score", "seeds > 0"]
    cells = [
        [
            row.a if twin else f"{row.a} - {row.b}",
            _differences(row.win_rate, 1),
            _interval(row.win_rate, 1),
            _positive(row.win_rate),
            _differences(row.score, 3),
            _positive(row.score),
        ]
        for row in rows
    ]
    return Table(title, headers, cells, note)


def _curves(title: str, group: Group) -> Table:
    """Every policy of a family with a curve, family by family and by KL within one."""
    rows = group.numbers["policies"]
    curved = {family_of(name) for name in rows if is_curve_point(name)}
    placed = [(family_of(name), row["kl"].mean, name) for name, row in rows.items() if "kl" in row]
    placed = [one for one in placed if one[0] in curved]
    order = list(dict.fromkeys(family for family, _, _ in placed))
    columns = ["kl", "win_rate", "mean_score"]
    cells = [
        [name, *(mean_text(rows[name].get(column), column) for column in columns)]
        for _, _, name in sorted(placed, key=lambda row: (order.index(row[0]), row[1]))
    ]
    note = "Policies of one reward model at several KL coefficients (named after `-kl`; without it, the preset's)."
    return Table(title, ["policy", *map(_label, columns)], cells, note)


def _matched_means(title: str, rows: Sequence[MatchedMean]) -> Table:
    families = list(dict.fromkeys(row.family for row in rows))
    headers = ["KL", "seeds", *(f"{family}: {what}" for family in families for what in ("win-rate %", "score"))]
    cells = []
    for kl in dict.fromkeys(row.kl for row in rows):
        at = {row.family: row for row in rows if row.kl == kl}
        values = [
            text + "*" * bool(at[family].on_chord)
            for family in families
            for text in (mean_text(at[family].win_rate, "win_rate"), mean_text(at[family].score))
        ]
        cells.append([f"{kl:g}", str(at[families[0]].score.seeds), *values])
    note = f"{_MATCHED}; over the seeds in which every reward model reaches that KL. *: in some seed between SFT and "
    return Table(title, headers, cells, f"{note}its first policy, where the line most likely lies below the curve.")


def _matched_differences(title: str, rows: Sequence[MatchedDifference], note: str) -> Table:
    headers = ["difference", "KL", "win-rate", "95% interval", "seeds > 0", "score", "seeds > 0", "on chord"]
    order = list(dict.fromkeys((row.a, row.b) for row in rows))
    cells = [
        [
            f"{row.a} - {row.b}",
            f"{row.kl:g}",
            _differences(row.win_rate, 1),
            _interval(row.win_rate, 1),
            _positive(row.win_rate),
            _differences(row.score, 3),
            _positive(row.score),
            f"{row.on_chord} of {row.win_rate.seeds}",
        ]
        for row in sorted(rows, key=lambda row: (order.index((row.a, row.b)), row.kl))
    ]
    if not any(row.on_chord for row in rows):
        headers, cells = headers[:-1], [row[:-1] for row in cells]
    return Table(title, headers, cells, note)


def _costs(summary: Summary) -> Table:
    cells = [
        [
            cost.stage,
            _with_error(cost.seconds.mean, cost.seconds.standard_error, 1),
            f"{cost.peak_gib.mean:.2f}",
            str(cost.seconds.seeds),
            str(cost.adopted),
        ]
        for cost in summary.costs
    ]
    note = "Wall seconds (± standard error) and peak resident memory of the runs that made the stage themselves."
    return Table("Cost of each stage", ["stage", "seconds", "peak GiB", "made", "adopted"], cells, note)


def markdown(table: Table) -> str:
    """A GitHub table; numbers to the right."""
    aligned = [":--" if index == 0 else "--:" for index in range(len(table.headers))]
    lines = [_row(table.headers), _row(aligned), *map(_row, table.rows)]
    note = f"\n\n{table.note}" if table.note else ""
    return f"### {table.title}{note}\n\n" + "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """Text that ends no cell and is no element: names come from the results of runs, which may be a stranger's."""
    return " ".join(clean(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
