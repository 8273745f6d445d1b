"""The control of one-to-one matching: any latent with any other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from monosem.disk import digest
from monosem.flow.match import Match
from monosem.flow.suite import Suite
from monosem.shapes import Site


@dataclass(frozen=True)
class RandomPermutation:
    """One-to-one, all assignments as likely, with the cosines of the pairs. Extras and dead rows have no match."""

    seed: int = 0

    @property
    def name(self) -> str:
        return "random permutation" + (f" (seed {self.seed})" if self.seed else "")

    def match(self, suite: Suite, source: Site, target: Site, latents: Int64[Tensor, " S"] | None = None) -> Match:
        here, there = suite.direction(source), suite.direction(target)
        drawing = torch.Generator().manual_seed(int(digest([self.seed, str(source), str(target)], 12), 16))
        a, b = (
            (own := (~one.dead).nonzero().flatten().cpu())[torch.randperm(len(own), generator=drawing)]
            for one in (here, there)
        )
        count = min(len(a), len(b))
        indices = torch.full((len(here), 1), -1, dtype=torch.int64)
        scores = torch.zeros(len(here), 1)
        indices[a[:count], 0] = b[:count]
        scores[a[:count], 0] = (here.unit[a[:count]] * there.unit[b[:count]]).sum(1).cpu()
        whole = Match(source, target, self.name, torch.arange(len(here)), indices, scores, len(there))
        return whole if latents is None else whole.of(suite.latents(source, latents))
