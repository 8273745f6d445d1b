"""Plots as SVG files that are readable on a light and on a dark page."""

from __future__ import annotations

import re
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.disk import whole_file
from monosem.report.colour import PALETTE, colour
from monosem.reproduce.claim import Line, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#010203"  # no colour of the palette: it becomes the page's own
_THEME = "<style>:root{color:#1f2328}@media(prefers-color-scheme:dark){:root{color:#e6edf3}}</style>"
_STYLE = {
    **dict.fromkeys(
        ("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "grid.color", "text.color", "xtick.color"), _INK
    ),
    "ytick.color": _INK,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "monosem",
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def write(plot: Plot, path: Path) -> None:
    """Draw a plot into a file; the same plot gives the same bytes."""
    with whole_file(path) as temporary:
        temporary.write_text(svg(plot))


def svg(plot: Plot) -> str:
    """Text and axes take the colour of the reader's theme."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot(xlabel=plot.x, ylabel=plot.y, title=plot.title)
        for place, line in enumerate(plot.lines):
            _scatter(axes, line, place) if line.points else _draw(axes, line, colour(place))
        _frame(axes, plot)
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    text = re.sub(r"(<svg\b[^>]*>)", rf"\1{_THEME}", file.getvalue(), count=1)
    return text.replace(_INK, "currentColor")


def _draw(axes: Axes, line: Line, paint: str) -> None:
    marker = "." if len(line.x) <= 20 else "none"
    style = "--" if line.dashed else "-"
    axes.plot(line.x, line.y, marker=marker, linestyle=style, color=paint, linewidth=1.6, label=line.label)
    if line.low is not None and line.high is not None:
        axes.fill_between(line.x, line.low, line.high, color=paint, alpha=0.18, linewidth=0)


def _scatter(axes: Axes, line: Line, place: int) -> None:
    """Colours repeat after six, shapes change then."""
    fill = "none" if line.dashed else colour(place)
    shape = "osD^"[place // len(PALETTE) % 4]
    axes.plot(line.x, line.y, shape, color=colour(place), markerfacecolor=fill, markersize=4, label=line.label)


def _frame(axes: Axes, plot: Plot) -> None:
    if plot.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if plot.shaded_from is not None:
        left, right = axes.get_xlim()
        axes.axvspan(plot.shaded_from, right, color=_INK, alpha=0.08, linewidth=0)
        axes.set_xlim(left, right)
    if any(line.points for line in plot.lines):
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    elif len(plot.lines) > 1:
        axes.legend(fontsize=8)
