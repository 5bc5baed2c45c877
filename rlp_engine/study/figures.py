"""The figure of a study, for paper and screen: (a) paired differences, (b) score and win-rate against KL.

Colours are those of the report (style.css), by method; a marker and a dash of its own tell each method apart
without colour too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlp_engine.report import names
from rlp_engine.run.atomic import write_whole
from rlp_engine.study.aggregate import Mean
from rlp_engine.study.matched_kl import SFT
from rlp_engine.study.summary import Compared, Group

MARKERS = "osD^vPX*h"
DASHES = ["solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1))]
DPI = 160
LEAST_TICK = 0.11  # of the axis between two ticks, so that their numbers stay apart
MOST_ROWS = 24  # of differences; study.md has all
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rlp",  # the same data give the same bytes
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3df",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#63666b",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "font.size": 9,
    "legend.frameon": False,
    "savefig.facecolor": "white",
}


def write_figures(folder: Path, group: Group, *, score: str) -> list[Path]:
    """figure.svg and figure.png of one group of runs; nothing when there is nothing to compare.

    Args:
        score: what the judge's mean score is called: "gold reward" in the sandbox.
    """
    if not group.compared:
        return []
    paths = [folder / "figure.svg", folder / "figure.png"]
    with matplotlib.rc_context(_STYLE):
        figure = draw(group, score=score)
        for path in paths:
            kind = path.suffix[1:]
            metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
            write_whole(path, lambda at, kind=kind, m=metadata: figure.savefig(at, format=kind, dpi=DPI, metadata=m))
    return paths


def draw(group: Group, *, score: str) -> Figure:
    """Differences above; below, when the runs have a curve, score and win-rate against KL."""
    rows = list(group.compared)[:MOST_ROWS]
    has_curve = any(len(points) > 1 for points in group.curve.values())
    top, bottom = 0.9 + 0.3 * len(rows), 3.5 if has_curve else 0.0
    figure = Figure(figsize=(7.4, top + bottom), layout="constrained")
    colours = _colours([SFT, *group.curve, *(row.a for row in rows)])
    if not has_curve:
        _forest(figure.subplots(), rows, colours, title="")
        return figure
    above, below = figure.subfigures(2, 1, height_ratios=[top, bottom])
    _forest(above.subplots(), rows, colours, title="(a) Paired differences, each policy at its own KL")
    left, right = below.subplots(1, 2)
    seeds = len(group.seeds)
    _curve(left, group, colours, "score", f"(b) {score.capitalize()} against KL", score)
    _curve(
        right, group, colours, "win_rate", f"(c) Win-rate against KL, {seeds} seed{'s' * (seeds > 1)}", "win-rate, %"
    )
    handles, labels = left.get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return figure


def _forest(axes: Axes, rows: Sequence[Compared], colours: Mapping[str, str], *, title: str) -> None:
    """Thick: one standard error over seeds. Thin: the bootstrap interval."""
    axes.axvline(0, color="#17181a", linewidth=1)
    for y, row in enumerate(rows):
        found, colour = row.win_rate, colours[names.parse(row.a).method]
        axes.plot([found.low, found.high], [y, y], color=colour, linewidth=1.2)
        if found.standard_error is not None:
            reach = [found.mean - found.standard_error, found.mean + found.standard_error]
            axes.plot(reach, [y, y], color=colour, linewidth=4, alpha=0.55, solid_capstyle="butt")
        axes.plot(found.mean, y, _marker(row.a, colours), color=colour, markersize=7, markeredgecolor="white")
        axes.annotate(
            f"{found.positive}/{found.seeds}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            color="#63666b",
        )
    labels = [f"{names.parse(row.a).label} − {names.parse(row.b).label}" for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("difference in win-rate, points (thick: ± 1 standard error over seeds; thin: 95% bootstrap)")
    axes.annotate(
        "seeds > 0", (1.01, -0.75), xycoords=("axes fraction", "data"), color="#63666b", annotation_clip=False
    )
    if title:
        axes.set_title(title, pad=10)


def _curve(axes: Axes, group: Group, colours: Mapping[str, str], column: str, title: str, y_label: str) -> None:
    """One line a reward model, from SFT at KL 0; bars are one standard error over seeds."""
    start = _start(group, column)
    for family, points in group.curve.items():
        method = names.parse(family).method
        number = list(colours).index(method)
        x, y = [point["kl"] for point in points], [point[column] for point in points]
        xs, ys = [mean.mean for mean in x], [mean.mean for mean in y]
        style = {"color": colours[method], "linestyle": DASHES[number % len(DASHES)]}
        if start:  # no policy was measured in between: paler
            axes.plot(np.sqrt([0.0, xs[0]]), [start.mean, ys[0]], linewidth=1, alpha=0.45, **style)
        axes.plot(
            np.sqrt(xs),
            ys,
            linewidth=1.6,
            marker=_marker(family, colours),
            markersize=6.5,
            markeredgecolor="white",
            label=names.parse(family).label,
            zorder=3,
            **style,
        )
        left = [np.sqrt(m.mean) - np.sqrt(max(0.0, m.mean - _error(m))) for m in x]
        right = [np.sqrt(m.mean + _error(m)) - np.sqrt(m.mean) for m in x]
        axes.errorbar(
            np.sqrt(xs),
            ys,
            xerr=[left, right],
            yerr=[_error(mean) for mean in y],
            fmt="none",
            ecolor=colours[method],
            elinewidth=1,
        )
    if start:
        axes.errorbar(
            0, start.mean, yerr=_error(start), fmt="o", color=colours[SFT], markersize=6, elinewidth=1, label="SFT"
        )
    _square_root_axis(axes, max(p["kl"].mean + _error(p["kl"]) for points in group.curve.values() for p in points))
    axes.set_title(title)
    axes.set_ylabel(y_label)


def _start(group: Group, column: str) -> Mean | None:
    row = group.numbers.get("policies", {}).get(SFT, {})
    return row.get({"score": "mean_score"}.get(column, column))


def _error(mean: Mean) -> float:
    return mean.standard_error or 0.0


def _square_root_axis(axes: Axes, most: float) -> None:
    """Distances are sqrt(KL), as in Gao et al. 2023; the numbers are KL."""
    nice = [0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    ticks = [0.0]
    for value in nice:
        if value <= most * 1.15 and np.sqrt(value) - np.sqrt(ticks[-1]) >= LEAST_TICK * np.sqrt(most):
            ticks.append(value)
    axes.set_xticks(np.sqrt(ticks), [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("KL from the SFT policy, nats a sequence")


def _marker(name: str, colours: Mapping[str, str]) -> str:
    return MARKERS[list(colours).index(names.parse(name).method) % len(MARKERS)]


def _colours(policies: Sequence[str]) -> dict[str, str]:
    """method -> its colour in the report, light."""
    numbers = names.colours(policies)
    order = sorted(numbers, key=lambda method: numbers[method])
    return {method: _series()[numbers[method]] for method in order}


def _series() -> dict[int, str]:
    """The first block of style.css, which is the light one."""
    text = (files("rlp_engine.report") / "style.css").read_text(encoding="utf-8").partition("@media")[0]
    return {int(number): colour for number, colour in re.findall(r"--series-(\d): (#[0-9a-f]{6})", text)}
