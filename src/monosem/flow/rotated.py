"""The control of cosine matching: the same directions, turned at random, so that no match means anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from monosem.disk import digest
from monosem.flow.greatest import Greatest
from monosem.flow.match import Match
from monosem.flow.suite import Suite
from monosem.shapes import Site


@dataclass(frozen=True)
class RotatedCosine:
    """The latents of greatest cosine with ⟨u_i Q, u_j⟩, Q a random rotation of the source's dictionary.

    Angles within each dictionary stay as they are; only what the two have in common is lost.
    """

    k: int = 1
    seed: int = 0

    @property
    def name(self) -> str:
        return f"rotated cosine top {self.k}" if self.k > 1 else "rotated cosine"

    def match(self, suite: Suite, source: Site, target: Site, latents: Int64[Tensor, " S"] | None = None) -> Match:
        asked, there = suite.latents(source, latents), suite.direction(target)
        rows = suite.direction(source).unit[asked]
        rows = rows @ self._rotation(rows.shape[1], source, target).to(rows)
        found = Greatest.product(rows, there.unit, there.dead, self.k)
        return Match(source, target, self.name, asked, *found, len(there))

    def _rotation(self, width: int, source: Site, target: Site) -> Float32[Tensor, "D D"]:
        drawing = torch.Generator().manual_seed(int(digest([self.seed, str(source), str(target)], 12), 16))
        turned, scale = torch.linalg.qr(torch.randn(width, width, generator=drawing, dtype=torch.float64))
        # The signs of R's diagonal make Q uniform among rotations and reflections.
        return (turned * scale.diagonal().sign()).float()
