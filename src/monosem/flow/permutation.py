"""Matching by permutation: each latent with another one, all together as near as possible (arXiv 2410.07656)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Int64
from torch import Tensor

from monosem.evaluation.match import assignment
from monosem.flow.candidate import assignment_among
from monosem.flow.folding import Weights, parameters
from monosem.flow.match import Match
from monosem.flow.suite import Suite
from monosem.flow.threshold import Thresholds, positive_thresholds
from monosem.shapes import InputError, Site


@dataclass(frozen=True)
class Permutation:
    """π = argmin Σ ‖w_i − w_π(i)‖² = argmax Σ ⟨w_i, w_π(i)⟩ over one-to-one assignments (arXiv 2410.07656, section 3).

    w_i is what `Parameters.rows(weights)` gives, folded by thresholds unless `folded` is False; `thresholds` are used
    in place of those the rules have. Rows are in units of the stream, so what weighs most in `all` depends on its norm:
    folded in a large stream the decoder, unfolded the bias, in which the encoder's centring is. Scores are cosines of
    decoder rows. Extras of the larger dictionary, and dead rows, have no match. The exact assignment takes 8 bytes for
    each pair and minutes at 16,384 latents; `approximate` chooses among the 256 nearest of each first. Raises
    `InputError` for rules without thresholds when folding, and for encoders without a row a latent unless weights are
    `dec`.
    """

    weights: Weights = "all"
    folded: bool = True
    approximate: bool = False
    thresholds: Thresholds | None = field(default=None, compare=False, repr=False)
    _found: dict[tuple[str, ...], Match] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.weights not in get_args(Weights):
            raise InputError(f"weights {self.weights!r}: expected one of {', '.join(get_args(Weights))}")

    @property
    def name(self) -> str:
        said = [] if self.weights == "all" else [f"{self.weights} weights"]
        said += [] if self.folded else ["unfolded"]
        said += ["approximate"] if self.approximate else []
        return "permutation" + (f" ({', '.join(said)})" if said else "")

    def match(self, suite: Suite, source: Site, target: Site, latents: Int64[Tensor, " S"] | None = None) -> Match:
        """The assignment of all latents is kept by the content of both autoencoders, and some are looked up in it."""
        key = (str(source), str(target), suite.hash(source), suite.hash(target))
        if key not in self._found:
            self._found[key] = self._all(suite, source, target)
        found = self._found[key]
        return found if latents is None else found.of(suite.latents(source, latents))

    @torch.no_grad()
    def _all(self, suite: Suite, source: Site, target: Site) -> Match:
        here, there = suite.direction(source), suite.direction(target)
        alive = [(~one.dead).nonzero().flatten().cpu() for one in (here, there)]
        a, b = (self._rows(suite, site)[own] for site, own in zip((source, target), alive))
        pairs = assignment_among(a, b) if self.approximate else assignment(a, b)
        indices = torch.full((len(here), 1), -1, dtype=torch.int64)
        scores = torch.zeros(len(here), 1)
        a, b = alive[0][pairs.a], alive[1][pairs.b]
        indices[a, 0] = b
        for part in torch.arange(len(a)).split(4096):
            scores[a[part], 0] = (here.unit[a[part]] * there.unit[b[part]]).sum(1).cpu()
        return Match(source, target, self.name, torch.arange(len(here)), indices, scores, len(there))

    def _rows(self, suite: Suite, site: Site) -> Tensor:
        theta = positive_thresholds(suite, site, self.thresholds) if self.folded else None
        return parameters(suite[site], theta, encoder=self.weights != "dec").rows(self.weights).cpu()
