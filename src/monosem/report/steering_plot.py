"""Heat maps of steering: one score by strength and layer, a map for each strategy and schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from monosem.report.plot import Picture, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DARK = 0.55
"""From this share of the scale on cells are light, and their numbers dark."""


def pictures(result: Mapping[str, Any]) -> list[Picture]:
    """A map of every score but the loss, where there are several layers; baselines have none. Needs matplotlib."""
    found = []
    known = [row for row in result["rows"] if row["axes"].get("strength") is not None]
    rows = [row for row in known if "baseline" not in row["axes"]]
    for key in dict.fromkeys(name for row in rows for name in row["scores"] if name != "loss"):
        for group, own in _groups(rows).items():
            strengths, layers = (_axis(own, name) for name in ("strength", "layer"))
            if len(layers) < 2:
                continue
            cells = {(row["axes"]["strength"], row["axes"]["layer"]): row["scores"][key]["value"] for row in own}
            title = f"{key}, {group}"
            caption = "mean over texts, by the last steered layer (cumulative) or the one layer (single), and strength"
            name = f"heat-{len(found)}"
            letter = "s" if result["mode"] == "add" else "r"
            svg = drawn(name, title, "layer", f"strength {letter}", _draw(cells, strengths, layers))
            found.append(Picture(title, caption, svg))
    return found


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        axes = row["axes"]
        parts = [axes["strategy"], axes["schedule"]["shape"]]
        found.setdefault(", ".join(part for part in parts if part != "constant"), []).append(row)
    return found


def _axis(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """Values ascending, all layers at once last."""
    return sorted({row["axes"][name] for row in rows}, key=lambda value: (value is None, value or 0))


def _draw(cells: Mapping[tuple[Any, Any], float], strengths: list[Any], layers: list[Any]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        import numpy as np

        values = np.array([[cells.get((s, layer), float("nan")) for layer in layers] for s in strengths], dtype=float)
        mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1)
        for y, x in zip(*np.nonzero(np.isfinite(values))):
            ink = "#111111" if values[y, x] > _DARK else "#ffffff"
            size = min(8.0, 60 / len(layers))
            axes.text(x + 0.5, y + 0.5, f"{values[y, x]:.2f}", ha="center", va="center", color=ink, fontsize=size)
        axes.set_xticks(np.arange(len(layers)) + 0.5, ["all" if layer is None else str(layer) for layer in layers])
        axes.set_yticks(np.arange(len(strengths)) + 0.5, [f"{s:g}" for s in strengths])
        axes.grid(visible=False)
        axes.figure.colorbar(mesh, ax=axes)

    return draw
