"""Plots as SVG that takes its text colour and font from the page around it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup

from monosem.report.colour import colour
from monosem.report.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#010203"  # no colour of the palette: it becomes the page's own
_STYLE = {
    "axes.edgecolor": _INK,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "grid.alpha": 0.15,
    "grid.color": _INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "monosem",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_STEP = 0.25

Pen = dict[str, Any]
"""Colour and width of one autoencoder's lines."""
Draw = Callable[["Axes", Subject, Pen], None]


class Plot(NamedTuple):
    """A picture with one line an autoencoder, and what exactly it shows.

    It is drawn if at least one autoencoder is `worth` it; by default every one that it `shows` is.
    """

    name: str
    title: str
    caption: str
    x: str
    y: str
    draw: Draw
    shows: Callable[[Subject], bool]
    worth: Callable[[Subject], bool] | None = None


class Picture(NamedTuple):
    """A plot as SVG."""

    title: str
    caption: str
    svg: Markup


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def pictures(plots: Sequence[Plot], subjects: Sequence[Subject]) -> list[Picture]:
    """Those of `plots` that at least one autoencoder is worth. Needs matplotlib."""
    return [
        Picture(plot.title, plot.caption, svg(plot, subjects))
        for plot in plots
        if any((plot.worth or plot.shows)(subject) for subject in subjects)
    ]


def svg(plot: Plot, subjects: Sequence[Subject]) -> Markup:
    """A plot of several autoencoders."""

    def draw(axes: Axes) -> None:
        for place, subject in enumerate(subjects):
            if plot.shows(subject):
                plot.draw(axes, subject, pen_of(place, len(subjects)))

    return drawn(plot.name, plot.title, plot.x, plot.y, draw)


def drawn(name: str, title: str, x: str, y: str, draw: Callable[[Axes], None]) -> Markup:
    """What `draw` draws, as SVG; the same data give the same text, with every id starting with `name`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 3.0), layout="constrained")
        draw(figure.add_subplot(xlabel=x, ylabel=y))
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    return Markup(_inline(file.getvalue(), name, title))  # noqa: S704


def pen_of(place: int, count: int) -> Pen:
    """Earlier lines are wider, so that later ones on top of them do not hide them."""
    return {"color": colour(place), "linewidth": 1.4 + min(0.8 * (count - 1 - place), 3.2)}


def _inline(text: str, name: str, title: str) -> str:
    """SVG to be put into HTML: no prologue, no namespaces, no size, no styles for the whole page."""
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    body = text[text.index(">", box.end()) + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
    opening = f'<svg {box[0]} role="img" aria-label="{title}">'
    return opening + re.sub(r"\s*\n\s*", "\n", body).replace(_INK, "currentColor").rstrip()


def _curve(key: str) -> Draw:
    def draw(axes: Axes, subject: Subject, pen: Pen) -> None:
        axes.plot([line["tokens"] for line in subject.log], [line[key] for line in subject.log], **pen)
        axes.xaxis.set_major_formatter(thousands)

    return draw


def thousands(value: float, _: Any = None) -> str:
    """10,000 as 10k."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _density(axes: Axes, subject: Subject, pen: Pen) -> None:
    logs = np.log10(subject.features.densities[subject.features.densities > 0])
    low = min(np.floor(logs.min() / _STEP) * _STEP, -_STEP)
    edges = np.arange(low, _STEP / 2, _STEP)
    axes.stairs(np.histogram(logs, edges)[0], edges, **pen)


def _active(axes: Axes, subject: Subject, pen: Pen) -> None:
    rows = subject.evaluation["curves"]["l0_histogram"]
    tokens = np.cumsum([0, 0] + [row["tokens"] for row in rows])
    at = [0, max(rows[0]["low"] - 1, 0)] + [row["high"] for row in rows]
    axes.plot(at, tokens / tokens[-1], **pen, drawstyle="steps-post" if len(rows) == 1 else "default")
    axes.set_xscale("symlog", linthresh=10)
    axes.xaxis.set_major_formatter(thousands)


def _has(curve: str) -> Callable[[Subject], bool]:
    return lambda subject: bool(subject.evaluation["curves"].get(curve))


def _trained(subject: Subject) -> bool:
    return bool(subject.log)


def _alive(subject: Subject) -> bool:
    return bool((subject.features.densities > 0).any())


PLOTS = (
    Plot(
        "training-variance",
        "Explained variance in training",
        "1 − Σ‖x − x̂‖² / Σ‖x − batch mean‖² on training batches, over the steps since the last point",
        "training tokens",
        "explained variance",
        _curve("explained_variance"),
        _trained,
    ),
    Plot(
        "training-l0",
        "L0 in training",
        "mean number of active latents on a token of the training batches since the last point",
        "training tokens",
        "active latents a token",
        _curve("l0"),
        _trained,
    ),
    Plot(
        "training-dead",
        "Dead latents in training",
        "share of latents that had not fired for as many tokens as training takes to count them as dead",
        "training tokens",
        "share of latents",
        _curve("dead_share"),
        _trained,
    ),
    Plot(
        "density",
        "Feature density",
        "latents by the share of tokens they are active on, in steps of a quarter of a decade; latents that "
        "are never active are not in it",
        "log10 of the share of tokens",
        "latents",
        _density,
        _alive,
    ),
    Plot(
        "active",
        "Active latents a token",
        "share of the evaluation tokens with at most that many active latents; exact at the ends of bins, "
        "straight between them",
        "active latents (L0)",
        "share of tokens",
        _active,
        _has("l0_histogram"),
    ),
)
