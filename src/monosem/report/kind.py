"""The kinds of autoencoders that boosting measures, and how pages and pictures tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from monosem.report.colour import colour


class Kind(NamedTuple):
    """What a kind is, its colour, and its mark in text and in matplotlib."""

    meaning: str
    colour: str
    sign: str
    marker: str


KINDS = {
    "core": Kind("the autoencoder that was there, frozen: everything is compared with it", "#7a7f87", "●", "o"),
    "residual": Kind(
        "the core plus a small autoencoder trained on what the core leaves of the domain's text", colour(0), "■", "s"
    ),
    "sum": Kind("the core plus the first residual of every domain, added up", colour(3), "◆", "D"),
    "baseline": Kind(
        "the same core taught the same text in another way: more latents trained with it, fine-tuning, or latents "
        "of a fine-tuned copy",
        colour(1),
        "▲",
        "^",
    ),
    "control": Kind(
        "what a gain has to exceed before it says anything about the domain or the method: a denser core, a random "
        "frozen decoder, an autoencoder from scratch, a residual trained on general text",
        colour(2),
        "▼",
        "v",
    ),
    "elsewhere": Kind("the first residual of another domain, read on this one's text", colour(4), "✚", "P"),
}
"""In the order in which tables show them."""


def kind_of(row: Mapping[str, Any], domain: str, domains: Sequence[str]) -> str:
    """The kind of a row of a boosting's result on the text of `domain`."""
    return "elsewhere" if row["domain"] in domains and row["domain"] != domain else row["kind"]
