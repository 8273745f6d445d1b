"""Where all latents of a site come from, told by scores alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from monosem.flow.cosine import Cosine
from monosem.flow.cut import Cuts
from monosem.flow.graph import LANES, Lane, Origin
from monosem.flow.match import Match, Matcher
from monosem.flow.suite import Suite
from monosem.shapes import InputError, Site

ORIGINS: tuple[Origin, ...] = get_args(Origin)
"""persisted, processed, newborn, unexplained; a label is a place in this row."""


@dataclass(frozen=True)
class Classification:
    """One label for each latent of a residual site, and what it was told from.

    `labels` [F] are places in `ORIGINS`, −1 where it cannot be told: without autoencoders on the stream before the
    site, or of any module beside it. `matches` has s(R), s(M), s(A) by lane, `cuts` what each has to reach.
    """

    site: Site
    labels: Int64[Tensor, " F"]
    matches: Mapping[Lane, Match]
    cuts: Mapping[Lane, float]

    def counts(self) -> dict[Origin, int]:
        """How many latents have each label."""
        return {origin: int((self.labels == place).sum()) for place, origin in enumerate(ORIGINS)}


def classify(suite: Suite, site: Site, matcher: Matcher | None = None, *, cuts: Cuts | None = None) -> Classification:
    """Label every latent of a residual site (arXiv 2502.03032, section 3.3); `Cosine()` and `Cuts()` by default.

    s(R) high and both modules low: persisted; s(R) and a module high: processed; only a module high: newborn; nothing
    high: unexplained. A score is high from the cut of the site in which the match is on. Raises `InputError`.
    """
    if site.kind != "resid_post" or site not in suite:
        raise InputError(f"{site} cannot be classified: give a residual site of the suite such as resid_post.12")
    matcher = matcher or Cosine()
    matches = {LANES[place.kind]: matcher.match(suite, site, place) for place in suite.before(site).values()}
    found = (cuts or Cuts()).of(suite, site)
    levels = {lane: found[lane] for lane in matches}
    high = {lane: match.matched & (match.score >= levels[lane]) for lane, match in matches.items()}
    return Classification(site, _labels(high, suite.n_latents(site)), matches, levels)


def _labels(high: Mapping[Lane, Bool[Tensor, " F"]], count: int) -> Int64[Tensor, " F"]:
    """`origin_of` for all latents at once, as places in `ORIGINS`."""
    modules = [mask for lane, mask in high.items() if lane != "resid"]
    if "resid" not in high or not modules:
        return torch.full((count,), -1, dtype=torch.int64)
    fed = torch.stack(modules).any(0).long()
    return torch.where(high["resid"], fed, 3 - fed)
