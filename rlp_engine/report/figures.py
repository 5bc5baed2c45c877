"""The figures of the report: what is drawn, and where its words stand. How they become SVG is in svg.py."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from rlp_engine.report.html import Markup, clean
from rlp_engine.report.svg import INK, MUTED, SERIES, STYLE, SURFACE, new_figure, svg_of

_SIDES_OF_A_POINT = [
    (9, 7, "left"),
    (-9, 7, "right"),
    (9, -9, "left"),
    (-9, -9, "right"),
    (9, 20, "left"),
    (9, -22, "left"),
]
SMOOTH_FROM = 40  # points; shorter curves are drawn as they are
DASHES = ["solid", (0, (5, 2)), (0, (1.5, 2)), (0, (5, 2, 1.5, 2))]  # rounds 1, 2, 3, ...


@dataclass(frozen=True)
class Curve:
    """One line: `colour` is an index into SERIES (0 neutral), `dash` one into DASHES."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    dash: int = 0


@dataclass(frozen=True)
class Mark:
    """A value with an interval: [low, high] around `value`."""

    label: str
    value: float
    low: float
    high: float
    colour: int


def curves(lines: Sequence[Curve], *, name: str, title: str) -> Markup:
    """Lines over training steps. Long curves: the raw numbers pale, their moving average strong."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.7, 2.25)
        for line in lines:
            x, y = _finite(line.x, line.y)
            style = {"color": SERIES[line.colour], "linestyle": DASHES[line.dash % len(DASHES)]}
            if len(y) >= SMOOTH_FROM:
                axes.plot(x, y, linewidth=0.8, alpha=0.25, color=style["color"])
                axes.plot(x, _moving_average(y), linewidth=1.8, **style)
            else:
                marker = "o" if len(y) == 1 else None
                axes.plot(x, y, linewidth=1.8, marker=marker, markersize=4, **style)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(_short))
        axes.set_xlabel("step")
        _widen_flat(axes)
        return svg_of(figure, name, f"{title} over training steps: {', '.join(line.label for line in lines)}")


def forest(marks: Sequence[Mark], *, name: str, title: str, x_label: str, zero: float) -> Markup:
    """Values with intervals, one a row, and a line at `zero`: where there is no difference."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(7.4, 0.75 + 0.34 * len(marks))
        axes.axvline(zero, color=MUTED, linewidth=1)
        for row, mark in enumerate(marks):
            axes.plot([mark.low, mark.high], [row, row], color=SERIES[mark.colour], linewidth=2)
            axes.plot(mark.value, row, "o", color=SERIES[mark.colour], markersize=7, markeredgecolor=SURFACE)
        axes.set_yticks(range(len(marks)), [clean(mark.label) for mark in marks], color=INK)
        axes.set_ylim(len(marks) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(x_label)
        return svg_of(figure, name, title)


def grouped_forest(groups: Sequence[tuple[str, Sequence[Mark]]], *, name: str, title: str, x_label: str) -> Markup:
    """Values with intervals in groups: one group a row, its marks below each other in the same order everywhere."""
    with matplotlib.rc_context(STYLE):
        most = max(len(marks) for _, marks in groups)
        figure, axes = new_figure(7.4, 0.8 + len(groups) * (0.2 + 0.13 * most))
        step = 0.8 / most
        for row, (_, marks) in enumerate(groups):
            for place, mark in enumerate(marks):
                y = row + (place - (len(marks) - 1) / 2) * step
                axes.plot([mark.low, mark.high], [y, y], color=SERIES[mark.colour], linewidth=1.6)
                axes.plot(mark.value, y, "o", color=SERIES[mark.colour], markersize=5, markeredgecolor=SURFACE)
        axes.set_yticks(range(len(groups)), [clean(label) for label, _ in groups], color=INK)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(x_label)
        return svg_of(figure, name, title)


def scatter(
    marks: Sequence[tuple[Mark, float]],
    *,
    joined: Sequence[Sequence[tuple[Mark, float]]] = (),
    name: str,
    title: str,
    x_label: str,
    y_label: str,
) -> Markup:
    """(mark, x): the mark's value and interval upwards, its label, if any, beside it; a line joins `joined` ones."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(7.4, 3.4)
        for line in joined:
            xs, ys = [x for _, x in line], [mark.value for mark, _ in line]
            axes.plot(xs, ys, color=SERIES[line[0][0].colour], linewidth=1.4, alpha=0.8)
        for mark, x in marks:
            axes.plot([x, x], [mark.low, mark.high], color=SERIES[mark.colour], linewidth=1.6, alpha=0.6)
            axes.plot(x, mark.value, "o", color=SERIES[mark.colour], markersize=8, markeredgecolor=SURFACE)
        axes.margins(x=0.14, y=0.12)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        _label_points(figure, axes, [(mark.label, x, mark.value) for mark, x in marks])
        return svg_of(figure, name, title)


def bars(
    values: Sequence[tuple[str, float | None, int]], *, name: str, title: str, base: tuple[str, float] | None = None
) -> Markup:
    """One bar an entry (label, value, colour), its number right of it; `base` = a dashed line and what it is."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.7, 0.6 + 0.36 * len(values))
        known = [value for _, value, _ in values if value is not None and math.isfinite(value)]
        for row, (_, value, colour) in enumerate(values):
            if value is not None and math.isfinite(value):
                axes.barh(row, value, 0.62, color=SERIES[colour])
                # Right of the bar, which for a negative value is at 0: left of it stand the labels.
                axes.annotate(
                    _short(float(f"{value:.4g}")),
                    (max(value, 0.0), row),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    color=INK,
                )
        if base is not None:
            axes.axvline(base[1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_xlabel(f"dashed: {base[0]}")
        axes.set_yticks(range(len(values)), [clean(label) for label, _, _ in values], color=INK)
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.margins(x=0.2)
        if known and min(known) >= 0:
            axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return svg_of(figure, name, title)


def stacked_histogram(
    counts: Mapping[float, Mapping[str, int]],
    reasons: Sequence[tuple[str, int]],
    *,
    name: str,
    title: str,
    gamma: float | None,
) -> Markup:
    """Prompts per confidence, stacked by (reason, colour); a line just below the threshold `gamma`."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(7.4, 2.7)
        at = sorted(counts)
        step = min((b - a for a, b in itertools.pairwise(at)), default=0.1)
        bottom = np.zeros(len(at))
        for reason, colour in reasons:
            heights = np.array([counts[x].get(reason, 0) for x in at], float)
            axes.bar(at, heights, step * 0.86, bottom=bottom, color=SERIES[colour], edgecolor=SURFACE, linewidth=0.8)
            bottom += heights
        axes.set_ylim(0, 1.18 * max(1.0, bottom.max(initial=0)))  # room for the words above the bars
        if gamma is not None:
            axes.axvline(gamma - step / 2, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"accepted from {gamma:g}",
                (gamma - step / 2, 1),
                xycoords=("data", "axes fraction"),
                xytext=(5, -4),
                textcoords="offset points",
                va="top",
                color=INK,
            )
        axes.set_xlim(-step * 0.6, 1 + step * 0.6)
        axes.set_xlabel("confidence: share of the answers in the largest cluster")
        axes.set_ylabel("prompts")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="x", visible=False)
        return svg_of(figure, name, title)


def _label_points(figure: Figure, axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Write each label beside its point, on the first side where it touches no point and no other label."""
    figure.draw_without_rendering()  # fixes the layout, so that positions on the page are known
    figure.set_layout_engine("none")
    centres = [axes.transData.transform((x, y)) for _, x, y in points]
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    for label, x, y in points:
        if not label:
            continue
        for dx, dy, side in _SIDES_OF_A_POINT:
            text = axes.annotate(
                clean(label), (x, y), (dx, dy), textcoords="offset points", ha=side, va="center", color=INK
            )
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            if (dx, dy, side) != _SIDES_OF_A_POINT[-1]:
                text.remove()
        taken.append(box)


def _widen_flat(axes: Axes) -> None:
    """A constant is drawn as a flat line in the middle, not as rounding noise blown up to full height."""
    low, high = axes.dataLim.intervaly
    least = max(1e-3 * max(abs(low), abs(high)), 1e-6)
    if math.isfinite(low) and high - low < least:
        axes.set_ylim((low + high) / 2 - 25 * least, (low + high) / 2 + 25 * least)


def _finite(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, float), np.asarray(y, float)
    keep = np.isfinite(x) & np.isfinite(y)
    return x[keep], y[keep]


def _moving_average(y: np.ndarray) -> np.ndarray:
    """Mean over a centred window of a tenth of the points; narrower at the ends, so that no value is invented."""
    half = max(1, len(y) // 20)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    low = np.maximum(np.arange(len(y)) - half, 0)
    high = np.minimum(np.arange(len(y)) + half + 1, len(y))
    return (sums[high] - sums[low]) / (high - low)


def _short(value: float, _position: int | None = None) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.6g}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "−")
