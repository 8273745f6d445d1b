"""Matches over several layers: one after the other, against the direct one (arXiv 2410.07656, section 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

from monosem.flow.match import Match, Matcher
from monosem.flow.suite import Suite
from monosem.shapes import InputError, Site


class Composition(NamedTuple):
    """The matches of adjacent sites put together, and the direct match of the ends."""

    composed: Match
    direct: Match

    @property
    def agreement(self) -> float:
        """The share of latents, among those that have either, whose two matches are the same latent."""
        some = self.composed.matched | self.direct.matched
        same = (self.composed.best == self.direct.best) & some
        return float(same.sum() / some.sum()) if some.any() else float("nan")


def composition_over(suite: Suite, matcher: Matcher, sites: Sequence[Site]) -> Composition:
    """Match each site to the next, put the matches together, and match the first to the last directly.

    Raises `InputError` for fewer than two sites.
    """
    if len(sites) < 2:
        raise InputError(f"{len(sites)} site(s): matches are put together over at least two")
    steps = [matcher.match(suite, site, later) for site, later in pairwise(sites)]
    return Composition(reduce(Match.composed, steps), matcher.match(suite, sites[0], sites[-1]))
