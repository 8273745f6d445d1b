"""How good a match is: how far matched weights are apart, and how often matched latents fire together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from scipy.sparse import csr_array
from torch import Tensor

from monosem.flow.firing import Firing
from monosem.flow.folding import parameters
from monosem.flow.match import Match, Matcher
from monosem.flow.suite import Suite
from monosem.flow.threshold import Thresholds, positive_thresholds
from monosem.shapes import Site


class MatchError(NamedTuple):
    """Mean squared difference of each matched latent's folded weights, by kind; NaN without a match."""

    dec: Float32[Tensor, " S"]
    enc: Float32[Tensor, " S"] | None
    bias: Float32[Tensor, " S"] | None


@torch.no_grad()
def match_error(
    suite: Suite, match: Match, thresholds: Thresholds | None = None, *, encoder: bool = True
) -> MatchError:
    """The match MSE of arXiv 2410.07656, folded after matching, whatever weights the match was found with.

    Raises `InputError` as folding does, and unless `encoder` is False for encoders without a row for each latent.
    """
    here, there = (
        parameters(suite[site], positive_thresholds(suite, site, thresholds), encoder)
        for site in (match.source, match.target)
    )
    to = match.best.clamp_min(0)

    def error(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        if a is None or b is None:
            return None
        squared = (a[match.latents] - b[to]).square()
        found = squared if squared.ndim == 1 else squared.mean(1)
        return torch.where(match.matched, found, torch.nan)

    dec = error(here.dec, there.dec)
    assert dec is not None
    return MatchError(dec, error(here.enc, there.enc), error(here.bias, there.bias))


class Together(NamedTuple):
    """Tokens on which a matched latent fires, on which its match does, and on which both do; sums over the pairs."""

    source: int
    match: int
    both: int

    @property
    def score(self) -> float:
        """The matching score P(match active | source active), pooled over tokens and latents."""
        return self.both / self.source if self.source else float("nan")

    @property
    def jaccard(self) -> float:
        """Both over at least one, pooled."""
        either = self.source + self.match - self.both
        return self.both / either if either else float("nan")


def together(firing: Firing, match: Match) -> Together:
    """How often latents and their first matches are active on the same tokens.

    A latent without a match is active alone. Raises `InputError` for sites that were not encoded.
    """
    x, y = firing.matrix(match.source, binary=True), firing.matrix(match.target, binary=True)
    own, to = match.latents.numpy(), match.best.numpy()
    found = to >= 0
    both = csr_array(x[own[found]]).multiply(y[to[found]]).sum()
    counts = [np.diff(one.indptr)[rows].sum() for one, rows in ((x, own), (y, to[found]))]
    return Together(int(counts[0]), int(counts[1]), int(both))


class Quality(NamedTuple):
    """A matcher in the mean over pairs of sites: mean squared difference of folded decoder rows, and firing together.

    `distinct` is the share of latents that are a first match, in the number of those asked about.
    """

    matcher: str
    error: float
    score: float
    jaccard: float
    distinct: float


def match_quality(
    suite: Suite,
    firing: Firing,
    matcher: Matcher,
    pairs: Sequence[tuple[Site, Site]],
    thresholds: Thresholds | None = None,
) -> Quality:
    """Match all latents of the first site of each pair to the second. Raises `InputError` as its parts do."""
    rows = []
    for source, target in pairs:
        match = matcher.match(suite, source, target)
        error = float(match_error(suite, match, thresholds, encoder=False).dec.nanmean())
        both = together(firing, match)
        rows.append((error, both.score, both.jaccard, match.distinct / len(match)))
    return Quality(matcher.name, *(sum(column) / len(rows) for column in zip(*rows)))
