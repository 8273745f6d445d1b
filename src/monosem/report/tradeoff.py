"""Plots of a comparison: sparsity against fidelity, and how far latents of one are found in another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from monosem.evaluation import Comparison
from monosem.report.colour import colour
from monosem.report.plot import Picture, drawn, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "os^Dvp"
"""After six autoencoders colours repeat, and the next marker begins."""

TRADEOFFS = {
    "explained_variance": (
        "Explained variance against L0",
        "each autoencoder as it is, with its number in the table; lines: the k strongest latents of each token alone, "
        "for those with ranks; bars: ± 1.96 standard errors over batches, of each by itself: wider than those of the "
        "paired differences",
        "explained variance",
    ),
    "ce_loss_score": (
        "Cross-entropy recovered against L0",
        "(CE with the site set to zero − CE with x̂ in its place) / (CE with zero − CE of the unchanged model); lines "
        "where smaller k were measured (--loss-per-k)",
        "CE score, zero",
    ),
}


def pictures(comparison: Comparison, evaluations: Mapping[str, Any]) -> list[Picture]:
    """Every plot there is something for. Needs matplotlib."""
    found = [
        Picture(title, caption, drawn(key, title, "active latents a token (L0)", y, _tradeoff(key, evaluations)))
        for key, (title, caption, y) in TRADEOFFS.items()
        if any(one["metrics"].get(key) is not None for one in evaluations.values())
    ]
    title = "How far latents of the first are found in the others"
    caption = (
        "share of the alive latents of the first whose nearest alive latent has at least that cosine; dashed: random "
        "directions of equal mean and covariance in the other's place"
    )
    matched = drawn("matched", title, "cosine", "share of latents", _matched(comparison))
    return [*found, Picture(title, caption, matched)]


def _tradeoff(key: str, evaluations: Mapping[str, Any]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for place, one in enumerate(evaluations.values()):
            curve = [row for row in one["curves"].get("per_k", []) if row.get(key) is not None and row["l0"] > 0]
            axes.plot([row["l0"] for row in curve], [row[key] for row in curve], color=colour(place), linewidth=1)
            value, error = one["metrics"].get(key), one["errors"].get(key)
            if value is None:
                continue
            at = one["metrics"]["l0"]
            bars = None if error is None else 1.96 * error
            marker = MARKERS[place // 6 % len(MARKERS)]
            axes.errorbar(at, value, bars, fmt=marker, color=colour(place), markersize=5, capsize=2)
            axes.annotate(str(place + 1), (at, value), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(thousands)

    return draw


def _matched(comparison: Comparison) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        places = {name: place for place, name in enumerate(comparison.evaluations)}
        for one in comparison.matches:
            if places[one.a] == 0:
                for pairs, style in ((one.nearest, "-"), (one.chance, "--")):
                    cosines = np.sort(pairs.a_to_b.cosine.numpy())[::-1]
                    shares = np.arange(1, len(cosines) + 1) / len(cosines)
                    axes.plot(*_thinned(cosines, shares), style, color=colour(places[one.b]), linewidth=1.4)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)

    return draw


def _thinned(x: np.ndarray, y: np.ndarray, most: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points: a curve of sixteen thousand is no better to see and large to load."""
    keep = np.unique(np.linspace(0, len(x) - 1, min(most, len(x))).round().astype(int))
    return x[keep], y[keep]
