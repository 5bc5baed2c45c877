"""Matplotlib's figures as inline SVG whose colours are CSS variables, so that one picture serves light and dark.

Matplotlib draws with placeholder colours; they become `var(--...)` of style.css, and ids become
unique to the figure. Text stays text: it can be selected, and no font is embedded.
"""

from __future__ import annotations

import io
import re

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from rlp_engine.report.html import Markup, escape

INK, MUTED, GRID, SURFACE, NEUTRAL = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05"
SERIES = ["#0a0c00"] + [f"#0a0c{i:02x}" for i in range(1, 9)]
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface", NEUTRAL: "neutral"} | {
    placeholder: f"series-{i}" for i, placeholder in enumerate(SERIES)
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rlp",  # the same data give the same bytes
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "font.size": 9,
    "lines.solid_capstyle": "round",
}


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Width and height in inches; no pyplot, so that nothing global is touched."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def svg_of(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an <svg> element. `name` is ours, unique on the page; `label` is read aloud."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(buffer.getvalue(), name, label)


def _themed(svg: str, name: str, label: str) -> Markup:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--font)", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    return Markup(svg)
