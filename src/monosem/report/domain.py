"""What a page shows of one domain: everything measured on its text, by kind, beside general text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from monosem.report.context import Span
from monosem.report.kind import KINDS, kind_of
from monosem.report.measure import DOMAIN, GENERAL, Figure, Figures, Row


class Line(NamedTuple):
    """An autoencoder with its number in tables and pictures, and what it has on the domain's text and on general."""

    number: int
    name: str
    kind: str
    row: Row
    here: Figures
    general: Figures

    def cells(self) -> list[Figure]:
        """The figures of all columns: of the domain, then of general text."""
        parts = ((DOMAIN, self.here), (GENERAL, self.general))
        return [measure.show(self.row, figures) for measures, figures in parts for measure in measures]


class Feature(NamedTuple):
    """A new latent as the result has it, and its contexts as spans."""

    figures: Mapping[str, Any]
    contexts: list[list[Span]]


class Domain(NamedTuple):
    """A domain's text, how many tokens of it were read, and what was measured and found there."""

    name: str
    text: str
    tokens: int
    lines: dict[str, list[Line]]
    features: list[Feature]

    @property
    def numbered(self) -> list[Line]:
        """The lines of all kinds, in the order of their numbers."""
        return [line for lines in self.lines.values() for line in lines]

    @property
    def first(self) -> Line | None:
        """The domain's first residual."""
        return next(iter(self.lines.get("residual", [])), None)


def domains(result: Mapping[str, Any]) -> list[Domain]:
    """Every domain of a boosting's result, in its order."""
    return [
        Domain(
            name,
            text,
            result["provenance"]["tokens"][name],
            _lines(result, name),
            [_feature(one) for one in result["features"].get(name, [])],
        )
        for name, text in result["domains"].items()
    ]


def _lines(result: Mapping[str, Any], domain: str) -> dict[str, list[Line]]:
    """By kind, numbered through; a domain's own autoencoders without its name."""
    general = result["general"]
    read = [(kind_of(row, domain, list(result["domains"])), row) for row in result["rows"] if domain in row["texts"]]
    found: dict[str, list[Line]] = {}
    number = 0
    for kind in KINDS:
        for row in (row for own, row in read if own == kind):
            number += 1
            name = row["name"].removeprefix(f"{domain}/")
            found.setdefault(kind, []).append(
                Line(number, name, kind, row, row["texts"][domain], row["texts"][general])
            )
    return found


def _feature(one: Mapping[str, Any]) -> Feature:
    contexts = [[_span(text, share) for text, share in line] for line in one["contexts"]]
    return Feature(one, contexts)


def _span(text: str, share: float) -> Span:
    return Span(text, "active", (share,), share) if share > 0 else Span(text, "plain")
