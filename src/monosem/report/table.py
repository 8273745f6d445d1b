"""The table over autoencoders. One row of `COLUMNS` per figure, with its definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from monosem.report.subject import Subject


class Cell(NamedTuple):
    """A figure and its standard error as text; empty where there is none."""

    value: str
    error: str = ""


class Column(NamedTuple):
    """A figure of every autoencoder and what it means."""

    heading: str
    meaning: str
    cell: Callable[[Subject], Cell]


def _metric(key: str, style: str) -> Callable[[Subject], Cell]:
    """One metric of the evaluation, both numbers written in `style`."""

    def cell(subject: Subject) -> Cell:
        value, error = (subject.evaluation[part].get(key) for part in ("metrics", "errors"))
        return Cell("" if value is None else format(value, style), "" if error is None else format(error, style))

    return cell


def speed(log: list[dict[str, Any]]) -> float | None:
    """Median over log intervals of training tokens a second in the autoencoder's own steps; None without any.

    The clock of a resumed run starts again at 0; the interval in which it does is passed over.
    """
    pairs = [(0, 0.0), *((line["tokens"], line["step_seconds"]) for line in log)]
    steps = [(now[0] - last[0], now[1] - last[1]) for last, now in pairwise(pairs)]
    rates = [tokens / seconds for tokens, seconds in steps if seconds > 0]
    return median(rates) if rates else None


def _speed(subject: Subject) -> Cell:
    rate = speed(subject.log)
    return Cell("" if rate is None else f"{rate:,.0f}")


COLUMNS = (
    Column(
        "explained variance",
        "1 − Σ‖x − x̂‖² / Σ‖x − mean‖² over the evaluation tokens, on raw activations; 0 for the mean",
        _metric("explained_variance", ".4f"),
    ),
    Column("L0", "mean number of active latents on a token", _metric("l0", ".2f")),
    Column(
        "CE score, zero",
        "(CE with the site set to zero − CE with x̂ in its place) / (CE with zero − CE of the unchanged "
        "model); CE is the cross-entropy of the next token",
        _metric("ce_loss_score", ".4f"),
    ),
    Column(
        "CE score, mean",
        "the same with the site set to its mean instead of zero",
        _metric("ce_loss_score_mean", ".4f"),
    ),
    Column(
        "KL score",
        "1 − KL(unchanged ‖ x̂ in place) / KL(unchanged ‖ zero in place) of the next-token distribution",
        _metric("kl_div_score", ".4f"),
    ),
    Column("dead", "share of latents active on no evaluation token", _metric("frac_dead", ".2%")),
    Column(
        "dense",
        "share of latents active on more than 10 % of the evaluation tokens",
        _metric("freq_over_10_percent", ".2%"),
    ),
    Column(
        "training tokens/s",
        "tokens a second in this autoencoder's own training steps, reading activations not included; "
        "median over the intervals of the log",
        _speed,
    ),
)


def table(columns: Sequence[Column], subjects: Sequence[Subject]) -> list[list[Cell]]:
    """One row an autoencoder, one cell a column."""
    return [[column.cell(subject) for column in columns] for subject in subjects]
