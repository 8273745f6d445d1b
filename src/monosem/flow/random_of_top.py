"""The random control: one of the k nearest latents instead of the nearest (arXiv 2502.03032, section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from monosem.disk import digest
from monosem.flow.cosine import Cosine
from monosem.flow.match import Match
from monosem.flow.suite import Suite
from monosem.shapes import Site


@dataclass(frozen=True)
class RandomOfTop:
    """One of the k latents of greatest cosine, each as likely; with fewer than k positive cosines, one of those.

    The draw depends on the seed, the two sites and the latent, not on which latents are asked about together.
    """

    k: int = 5
    seed: int = 0

    @property
    def name(self) -> str:
        return f"random of top {self.k}" + (f" (seed {self.seed})" if self.seed else "")

    def match(self, suite: Suite, source: Site, target: Site, latents: Int64[Tensor, " S"] | None = None) -> Match:
        top = Cosine(self.k).match(suite, source, target, latents)
        there = (top.indices >= 0).sum(1)
        choice = (self._draws(suite.n_latents(source), source, target)[top.latents] * there).long()
        columns = choice[:, None]
        indices, scores = top.indices.gather(1, columns), top.scores.gather(1, columns)
        return Match(source, target, self.name, top.latents, indices, scores, top.n_targets)

    def _draws(self, count: int, source: Site, target: Site) -> Tensor:
        """Uniform in [0, 1), one for each latent."""
        seed = int(digest([self.seed, str(source), str(target)], 12), 16)
        return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
