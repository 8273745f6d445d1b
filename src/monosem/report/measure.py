"""The figures of an autoencoder on a domain and on general text, as text. One row a column, with its definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Row = Mapping[str, Any]
"""A row of a boosting's result."""
Figures = Mapping[str, Any]
"""What such a row has on one text."""


class Figure(NamedTuple):
    """A figure, its error or interval, and a word on what it comes to; empty where there is none."""

    value: str
    note: str = ""
    verdict: str = ""


class Measure(NamedTuple):
    """A figure of every autoencoder and what it means."""

    heading: str
    meaning: str
    show: Callable[[Row, Figures], Figure]


def written(value: float | None, style: str) -> Figure:
    """A number, or nothing; a style that ends in % makes it a percentage."""
    return Figure("" if value is None else spelled(value, style))


def spelled(value: float, style: str) -> str:
    """The number in `style`, with a space before a percent sign."""
    return format(value, style).replace("%", " %")


def new_l0(row: Row, figures: Figures) -> float | None:
    """Mean number of active latents beside the core's; None where they cannot be told apart."""
    new = row["groups"][1:]
    return sum(figures["l0_by_group"][group["name"]] for group in new) if new else None


def _core_l0(row: Row, figures: Figures) -> Figure:
    split = len(row["groups"]) > 1 or row["kind"] == "core"
    return written(figures["l0_by_group"][row["groups"][0]["name"]] if split else None, ".2f")


def _dead(row: Row, figures: Figures) -> Figure:
    new = [(group["n_latents"], figures["dead_by_group"][group["name"]]) for group in row["groups"][1:]]
    dead = sum(count * share for count, share in new) / sum(count for count, _ in new) if new else None
    return written(dead, ".1%")


def _metric(key: str, style: str) -> Callable[[Row, Figures], Figure]:
    return lambda _, figures: written(figures.get(key), style)


def _gain(key: str, style: str) -> Callable[[Row, Figures], Figure]:
    return lambda row, figures: Figure("") if row["kind"] == "core" else written(figures["gains"].get(key), style)


def _ev(_: Row, figures: Figures) -> Figure:
    error = figures.get("ev_error")
    return Figure(spelled(figures["explained_variance"], ".4f"), "" if error is None else f"± {error:.4f}")


def _bounds(found: Mapping[str, float] | None, style: str) -> Figure:
    if found is None:
        return Figure("")
    low, high = (spelled(found[key], style).removesuffix(" %") for key in ("low", "high"))
    return Figure(spelled(found["value"], style), f"[{low}, {high}]")


def lost(_: Row, figures: Figures) -> Figure:
    """The explained variance of general text that is lost, a share of the core's where it is large enough."""
    kept = figures.get("preserved")
    return Figure("") if kept is None else _bounds(kept["drop"], "+.2%" if kept["relative"] else "+.4f")


def _added_ce(_: Row, figures: Figures) -> Figure:
    return _bounds((figures.get("preserved") or {}).get("added_ce"), "+.4f")


def verdict(_: Row, figures: Figures) -> Figure:
    """Preserved, damaged or undecided."""
    word = (figures.get("preserved") or {}).get("verdict", "")
    return Figure(word, verdict=word)


DOMAIN = (
    Measure("EV", "explained variance, 1 − Σ‖x − x̂‖² / Σ‖x − mean‖² of activations; ± one standard error", _ev),
    Measure("gain", "EV − EV of the core", _gain("ev", "+.4f")),
    Measure("relative", "(EV − EV of the core) / EV of the core", _gain("ev_relative", "+.1%")),
    Measure(
        "removed",
        "1 − (1 − EV) / (1 − EV of the core): the share that is gone of what the core leaves unexplained",
        _gain("unexplained_removed", "+.1%"),
    ),
    Measure(
        "CE removed",
        "cross-entropy of the next token with the core's x̂ in place, minus the same with this x̂, in nats",
        _gain("ce", "+.4f"),
    ),
    Measure(
        "of damage",
        "CE removed as a share of what the core's x̂ adds to the unchanged model's cross-entropy",
        _gain("ce_damage_removed", "+.1%"),
    ),
    Measure(
        "CE score",
        "(CE with zero in place − CE with x̂) / (CE with zero − CE unchanged)",
        _metric("ce_loss_score", ".4f"),
    ),
    Measure("KL", "KL(unchanged ‖ x̂ in place) of the next-token distribution, in nats", _metric("kl_div", ".4f")),
    Measure("L0", "mean number of active latents on a token", _metric("l0", ".2f")),
    Measure("core's", "of these the core's latents", _core_l0),
    Measure(
        "new",
        "of these the latents beside the core's; – where new latents were trained together with the core's",
        lambda row, figures: written(new_l0(row, figures), ".2f"),
    ),
    Measure("dead", "share of the new latents that are active on no token of this text", _dead),
)
GENERAL = (
    Measure("EV", "explained variance of general text", _ev),
    Measure("verdict", "whether general text is kept, by both intervals", verdict),
    Measure(
        "lost",
        "(EV of the core − EV) / EV of the core on general text, with its 95 % bootstrap interval over windows; "
        "without % where the core's EV is too small to divide by",
        lost,
    ),
    Measure(
        "CE added",
        "cross-entropy on general text minus the core's, in nats, with its 95 % bootstrap interval over windows",
        _added_ce,
    ),
    Measure(
        "new",
        "active new latents on a token of general text",
        lambda row, figures: written(new_l0(row, figures), ".2f"),
    ),
)
"""Heading, definition and figure of every column, of the domain and of general text."""
