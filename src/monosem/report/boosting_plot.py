"""Pictures of a domain: what it gains against what general text loses, and what its new latents are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from monosem.report.domain import Domain, Line
from monosem.report.kind import KINDS
from monosem.report.plot import Picture, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIMIT = 0.01
"""Where the scale of losses turns from linear to logarithmic if the result does not say what is allowed."""
_GREY = "#8a8f98"


class Spread(NamedTuple):
    """Quantiles (5, 25, 50, 75, 95 %) of one group of latents, beside what chance gives."""

    label: str
    colour: str
    values: Sequence[float]
    chance: Sequence[float] | None = None


def pictures(domain: Domain, place: int) -> list[Picture]:
    """Every plot there is something for, with ids that start with the domain's `place`. Needs matplotlib."""
    title = "Domain gain against general loss"
    caption = (
        "gain of EV on the domain against the EV lost on general text with its 95 % interval; dashed: the limit; "
        "beyond it, up and down, the scale is logarithmic; numbers are those of the table"
    )
    lost = "general EV lost" + (", share of the core's" if _relative(domain) else "")
    found = [Picture(title, caption, drawn(f"gain-{place}", title, "domain EV gained", lost, _tradeoff(domain)))]
    title = "Domain EV against L0"
    caption = "all active latents of a token, core's and new; bars: ± 1.96 standard errors, of each by itself"
    frontier = drawn(f"frontier-{place}", title, "active latents a token (L0)", "domain EV", _frontier(domain))
    found.append(Picture(title, caption, frontier))
    return found + [
        Picture(title, caption, drawn(f"{name}-{place}", title, x, "number in the table", _bars(spreads, middle)))
        for name, title, caption, x, spreads, middle in (
            (
                "redundancy",
                "Redundancy of new latents",
                "cosine of each new latent's decoder row with the nearest of the core: 5 to 95 % thin, 25 to 75 % "
                "thick, median as a dot; grey: as many random directions",
                "cosine with the nearest core latent",
                list(redundancy(domain)),
                None,
            ),
            (
                "specificity",
                "Specificity of latents",
                "firing rate on the domain over the sum of the rates on both texts, of latents that fire: quantiles in "
                "the same way; 0.5: as often on general text",
                "p_domain / (p_domain + p_general)",
                list(specificity(domain)),
                0.5,
            ),
        )
        if spreads
    ]


def _relative(domain: Domain) -> bool:
    return all(line.general["preserved"]["relative"] for line in domain.numbered if "preserved" in line.general)


def _tradeoff(domain: Domain) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        limit = LIMIT
        for line in domain.numbered:
            kept = line.general.get("preserved")
            drop = {"value": 0.0, "low": 0.0, "high": 0.0} if kept is None else kept["drop"]
            limit = limit if kept is None else kept["limits"]["drop"]
            bars = [[max(0.0, drop["value"] - drop["low"])], [max(0.0, drop["high"] - drop["value"])]]
            _point(axes, line, line.here["gains"]["ev"], drop["value"], bars)
        axes.axhline(limit, color=_GREY, linewidth=0.8, linestyle="--")
        axes.set_yscale("symlog", linthresh=limit)
        if _relative(domain):
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")

    return draw


def _frontier(domain: Domain) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for line in domain.numbered:
            if line.here["l0"] > 0:
                error = line.here.get("ev_error")
                bars = None if error is None else 1.96 * error
                _point(axes, line, line.here["l0"], line.here["explained_variance"], bars)

    return draw


def _point(axes: Axes, line: Line, x: float, y: float, bars: float | list[list[float]] | None) -> None:
    kind = KINDS[line.kind]
    axes.errorbar(x, y, bars, fmt=kind.marker, color=kind.colour, markersize=5, capsize=2, elinewidth=0.8)
    axes.annotate(str(line.number), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)


def _owned(domain: Domain) -> list[Line]:
    return [line for line in domain.numbered if line.kind not in ("sum", "elsewhere")]


def redundancy(domain: Domain) -> Iterator[Spread]:
    """Of the domain's own: those of others are on their pictures, and the sum's are the residuals'."""
    for line in _owned(domain):
        for group in line.row["groups"]:
            found = line.row["redundancy"].get(group["name"])
            if found is not None:
                yield Spread(str(line.number), KINDS[line.kind].colour, found["nearest"], found["chance"])


def specificity(domain: Domain) -> Iterator[Spread]:
    """The core's latents once, then the new ones of each."""
    found = [line for line in _owned(domain) if line.row.get("specificity")]
    for place, line in enumerate(found):
        core, *new = (line.row["specificity"].get(group["name"]) for group in line.row["groups"])
        if place == 0 and core is not None:
            yield Spread("core", KINDS["core"].colour, core)
        for values in new:
            if values is not None:
                yield Spread(str(line.number), KINDS[line.kind].colour, values)


def _bars(spreads: list[Spread], middle: float | None) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for place, one in enumerate(spreads):
            if one.chance is not None:
                _bar(axes, place + 0.28, one.chance, _GREY)
            _bar(axes, place, one.values, one.colour)
        if middle is not None:
            axes.axvline(middle, color=_GREY, linewidth=0.8, linestyle="--")
        axes.set_ylim(len(spreads) - 0.4, -0.6)
        axes.set_yticks(range(len(spreads)), [one.label for one in spreads], fontsize=min(9.0, 130 / len(spreads)))
        axes.grid(visible=False, axis="y")

    return draw


def _bar(axes: Axes, at: float, values: Sequence[float], colour: str) -> None:
    low, lower, median, upper, high = values
    axes.plot([low, high], [at, at], color=colour, linewidth=1)
    axes.plot([lower, upper], [at, at], color=colour, linewidth=3.5, solid_capstyle="butt")
    axes.plot([median], [at], "o", color=colour, markersize=4)
