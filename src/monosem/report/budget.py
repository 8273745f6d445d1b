"""What each autoencoder does at smaller and larger k, by the number of latents that are really active there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from monosem.evaluation.per_k import LOSSES, Row, most
from monosem.report.plot import Draw, Pen, Plot, thousands
from monosem.report.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = {
    "l0": ("L0", ".2f"),
    "explained_variance": ("explained variance", ".4f"),
    "ce_loss_score": ("CE score, zero", ".4f"),
    "ce_loss_score_mean": ("CE score, mean", ".4f"),
    "kl_div": ("KL, nats", ".4f"),
}
"""Heading and style of each figure of a budget."""


class Line(NamedTuple):
    """A row of the table over budgets: autoencoder by place, k (None: it has no ranks), figures as text."""

    place: int
    name: str
    k: int | None
    beyond: bool
    cells: list[str]


def rows(subject: Subject) -> list[Row]:
    """One for each budget measured, ascending: its own, smaller ones, and larger ones if `at` has some.

    An autoencoder without ranks has a single one, whose `k` is None.
    """
    evaluation = subject.evaluation
    own = _own(evaluation)
    curve = evaluation["curves"].get("per_k")
    if not curve:
        return [{"k": None, **own}]
    found: dict[int, Row] = {row["k"]: row for row in curve}
    found[curve[-1]["k"]] = curve[-1] | own
    for k, one in evaluation.get("at", {}).items():
        found = {row["k"]: row for row in one["curves"]["per_k"]} | found
        found[int(k)] = found[int(k)] | _own(one)
    return [found[k] for k in sorted(found)]


def trained(subject: Subject) -> int | None:
    """The largest budget it was trained for; None without ranks."""
    budgets = subject.sae.info.get("budgets", {}).get("J")
    return max(budgets) if budgets else most(subject.sae)


def beyond(subject: Subject, row: Row) -> bool:
    """Whether a budget is larger than any it was trained for."""
    largest = trained(subject)
    return largest is not None and row["k"] is not None and row["k"] > largest


def lines(subjects: Sequence[Subject]) -> list[Line]:
    """Every power of two, the k of the autoencoder, and every budget at which losses were measured."""
    return [
        Line(place, subject.name, _k(row), beyond(subject, row), _cells(row))
        for place, subject in enumerate(subjects)
        for row in rows(subject)
        if _marked(subject, row)
    ]


def _own(evaluation: dict[str, Any]) -> Row:
    metrics = evaluation["metrics"]
    return {key: metrics[key] for key in ("l0", "explained_variance", *LOSSES) if key in metrics}


def _k(row: Row) -> int | None:
    return None if row["k"] is None else int(row["k"])


def _cells(row: Row) -> list[str]:
    values = [(row.get(key), style) for key, (_, style) in FIGURES.items()]
    return ["" if value is None else format(value, style) for value, style in values]


def _marked(subject: Subject, row: Row) -> bool:
    k = _k(row)
    return k is None or not k & (k - 1) or k == most(subject.sae) or LOSSES[0] in row


def _curve(key: str) -> Draw:
    """A line over the budgets trained for, dashed and shaded beyond, with a large dot at the autoencoder's own k."""

    def draw(axes: Axes, subject: Subject, pen: Pen) -> None:
        known = [row for row in rows(subject) if row.get(key) is not None and (row["l0"] or 0) > 0]
        inside = [row for row in known if not beyond(subject, row)]
        outside = [row for row in known if beyond(subject, row)]
        axes.plot(*_xy(inside, key), **pen)
        if outside:
            axes.plot(*_xy(inside[-1:] + outside, key), **pen, linestyle="--")
            low, high = _xy(inside[-1:] + outside[-1:], key)[0]
            axes.axvspan(low, high, color=pen["color"], alpha=0.05, linewidth=0)
        own = [row for row in known if row["k"] in (None, most(subject.sae))]
        for marked, size in (([row for row in known if _marked(subject, row)], 3), (own, 6)):
            axes.plot(*_xy(marked, key), "o", color=pen["color"], markersize=size + pen["linewidth"])
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(thousands)

    return draw


def _xy(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    return [float(row["l0"] or 0) for row in rows], [float(row[key] or 0) for row in rows]


def _weights(axes: Axes, subject: Subject, pen: Pen) -> None:
    weights = subject.sae.info["budgets"]["rank_weights"]
    axes.stairs(weights, [rank + 0.5 for rank in range(len(weights) + 1)], baseline=None, **pen)
    axes.set_ylim(bottom=0)


def _count(subject: Subject, key: str) -> int:
    """Budgets at which a figure was measured."""
    return sum(row.get(key) is not None for row in rows(subject))


PLOTS = (
    Plot(
        "budget-variance",
        "Explained variance at every k",
        "explained variance on the evaluation tokens when only the k strongest latents of each are kept, by the mean "
        "number of them that are active; large dots: each autoencoder as it is; without a line: it has no ranks; "
        "dashed and shaded: more latents than it was trained for",
        "active latents a token (L0)",
        "explained variance",
        _curve("explained_variance"),
        lambda subject: True,
        lambda subject: len(rows(subject)) > 1,
    ),
    Plot(
        "budget-loss",
        "Cross-entropy recovered at smaller k",
        "(CE with the site set to zero − CE with x̂ in its place) / (CE with zero − CE of the unchanged model), with "
        "the k strongest latents of each token, by the mean number of them that are active; dots and lines as above",
        "active latents a token (L0)",
        "CE score, zero",
        _curve("ce_loss_score"),
        lambda subject: _count(subject, "ce_loss_score") > 0,
        lambda subject: _count(subject, "ce_loss_score") > 1,
    ),
    Plot(
        "rank-weights",
        "Weight of each rank in training",
        "Wᵣ, the sum of the weights of the trained budgets k ≥ r: how much the r-th strongest latent of a token counts "
        "in the loss; an autoencoder trained for one k has 1 at every rank",
        "rank r",
        "Wᵣ",
        _weights,
        lambda subject: "rank_weights" in subject.sae.info.get("budgets", {}),
    ),
)
