"""Matching by the cosine of decoder rows alone: no data, no encoder (arXiv 2502.03032, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int64
from torch import Tensor

from monosem.flow.greatest import Greatest
from monosem.flow.match import Match
from monosem.flow.suite import Suite
from monosem.shapes import InputError, Site


@dataclass(frozen=True)
class Cosine:
    """The k latents of greatest positive cosine, C[i, j] = ⟨u_i, u_j⟩; equal ones in the order of their numbers.

    k = 1 is the method, 5 the paper's variant. Dead rows are never matched. One latent costs one matrix–vector product;
    of all latents a block of products exists at a time.
    """

    k: int = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"k = {self.k} matches nothing: give at least 1")

    @property
    def name(self) -> str:
        return "cosine" if self.k == 1 else f"cosine top {self.k}"

    def match(self, suite: Suite, source: Site, target: Site, latents: Int64[Tensor, " S"] | None = None) -> Match:
        asked = suite.latents(source, latents)
        unit = suite.direction(source).unit
        rows = unit if latents is None else unit[asked]
        there = suite.direction(target)
        found = Greatest.product(rows, there.unit, there.dead, self.k)
        return Match(source, target, self.name, asked, *found, len(there))
