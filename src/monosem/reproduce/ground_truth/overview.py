"""What judges share: figures by name, the table of every arm, the picture of recovery beside explained variance."""

from __future__ import annotations

from collections.abc import Sequence

from monosem.reproduce.claim import Evidence, Line, Plot, Table
from monosem.reproduce.figure import Read, mean, own_ev, own_l0, silent
from monosem.reproduce.ground_truth.arm import CONTROLS, PCA


def figure(name: str) -> Read:
    """One figure of the measures by its name."""
    return lambda found: found[name]


recovered = figure("recovered")
of_frequent = figure("of_frequent")

COLUMNS: dict[str, Read] = {
    "EV": own_ev,
    "L0": own_l0,
    "silent latents": silent,
    "recovered": recovered,
    "one to one": figure("one_to_one"),
    "of firings": figure("of_firings"),
    "of frequent": of_frequent,
    "of rows": figure("rows"),
    "MMCS": figure("mmcs"),
    "MMCS by chance": figure("mmcs_chance"),
    "F1": figure("f1"),
}


def table(evidence: Evidence, names: Sequence[str]) -> Table:
    """Every figure of every arm."""
    rows = [[name, *(f"{mean(evidence, name, read):.3f}" for read in COLUMNS.values())] for name in names]
    title = (
        "Means over seeds. Recovered: share of all features with a decoder row of cosine above 0.9; one to one: where "
        "a row counts once; of firings: weighted by rate; of frequent: of as many of the most frequent features as "
        "there are latents; of rows: share of decoder rows that are a feature. MMCS: mean over features of the largest "
        "cosine, and that of random directions. F1: of the latent that tells a feature best, weighted by rate"
    )
    return Table(title, ["arm", *COLUMNS], rows)


def is_control(recipe: str) -> bool:
    """Whether some part of an arm did not learn."""
    return recipe == PCA or recipe.rpartition("+")[2] in CONTROLS


def scatter(evidence: Evidence, names: Sequence[str]) -> Plot:
    """A point for each arm and seed; arms that explain less than nothing would leave no room for the others."""
    shown = [name for name in names if mean(evidence, name, own_ev) > 0]
    lines = [
        Line(
            name,
            evidence.values(name, own_ev),
            evidence.values(name, recovered),
            dashed=is_control(name),
            points=True,
        )
        for name in shown
    ]
    caption = "A point is an arm with one seed; hollow ones are controls, of which some part did not learn."
    left = [f"{name} ({mean(evidence, name, own_ev):.2f})" for name in names if name not in shown]
    if left:
        caption += f" Not shown, for an explained variance below 0: {', '.join(left)}."
    title = "Features recovered beside explained variance"
    return Plot("recovery", title, caption, "explained variance", "share of features recovered", lines)
