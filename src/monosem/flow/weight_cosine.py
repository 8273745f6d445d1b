"""Matching by cosines that involve encoder rows too (arXiv 2502.03032, appendix F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn import functional

from monosem.flow.folding import parameters
from monosem.flow.greatest import Greatest
from monosem.flow.match import Match
from monosem.flow.suite import Suite
from monosem.shapes import InputError, Site

Pair = Literal["enc-enc", "dec-enc", "dec-dec", "sum"]
"""Which rows of the source meet which of the target; `sum` is the mean of the three cosines."""


@dataclass(frozen=True)
class WeightCosine:
    """The k latents of greatest cosine between these rows. `dec-dec` is `Cosine`.

    Dead decoder rows are never matched. Raises `InputError` for encoders without a row for each latent.
    """

    pair: Pair
    k: int = 1

    def __post_init__(self) -> None:
        if self.pair not in get_args(Pair):
            raise InputError(f"rows {self.pair!r}: expected one of {', '.join(get_args(Pair))}")
        if self.k < 1:
            raise InputError(f"k = {self.k} matches nothing: give at least 1")

    @property
    def name(self) -> str:
        return f"cosine {self.pair} top {self.k}"

    def match(self, suite: Suite, source: Site, target: Site, latents: Int64[Tensor, " S"] | None = None) -> Match:
        asked = suite.latents(source, latents)
        rows = self._rows(suite, source, 0)[asked]
        there = suite.direction(target)
        found = Greatest.product(rows, self._rows(suite, target, 1), there.dead, self.k)
        return Match(source, target, self.name, asked, *found, len(there))

    def _rows(self, suite: Suite, site: Site, side: int) -> Float32[Tensor, "F W"]:
        """Unit rows, of `sum` one beside the other so that their product is the mean of the cosines."""
        pairs = ["enc-enc", "dec-enc", "dec-dec"] if self.pair == "sum" else [self.pair]
        words = [pair.split("-")[side] for pair in pairs]
        direction = suite.direction(site)
        known = {"dec": direction.unit}
        if "enc" in words:
            enc = parameters(suite[site]).enc
            assert enc is not None
            known["enc"] = functional.normalize(enc, dim=1)
        rows = torch.cat([known[word] for word in words], 1) / len(words) ** 0.5
        rows[direction.dead] = 0
        return rows
