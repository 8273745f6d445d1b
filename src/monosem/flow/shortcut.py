"""Ways past a layer: what stands in for x_{t+1} when it is not computed (arXiv 2410.07656, section 5.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from monosem.flow.cosine import Cosine
from monosem.flow.folding import Weights
from monosem.flow.match import Matcher
from monosem.flow.permutation import Permutation
from monosem.flow.suite import Suite
from monosem.flow.threshold import Thresholds
from monosem.flow.transport import Carried, carried, kept, mixed
from monosem.flow.weight_cosine import Pair, WeightCosine
from monosem.shapes import Site
from monosem.shapes.codes import Codes


class Passing(NamedTuple):
    """What a shortcut may use at some tokens: both layers' activations, and the codes of the earlier."""

    earlier: Float[Tensor, "B D"]
    later: Float[Tensor, "B D"]
    codes: Codes


class Shortcut(NamedTuple):
    """What stands in for the activation at `place`."""

    place: Site
    make: Callable[[Passing], Float[Tensor, "B D"]]


@dataclass(frozen=True)
class Way:
    """A way by its name, made for each pair of layers t, t + 1."""

    name: str
    at: Callable[[Suite, Site, Site], Shortcut]


def controls() -> list[Way]:
    """Without a match: x_t instead of x_{t+1}; x̂_t instead of x_t; x̂_t instead of x_{t+1}; x̂_{t+1} for itself.

    The second and the last skip nothing: they are what the two autoencoders cost.
    """
    return [
        Way("layer dropped", lambda suite, source, target: Shortcut(target, lambda given: given.earlier)),
        Way("encode-decode t", lambda suite, source, target: _decoded(source, kept(suite, source))),
        Way("x̂_t as x_{t+1}", lambda suite, source, target: _decoded(target, kept(suite, source))),
        Way(
            "encode-decode t+1",
            lambda suite, source, target: Shortcut(target, lambda given: suite[target](given.later)),
        ),
    ]


def through(
    matcher: Matcher, *, folded: bool = True, thresholds: Thresholds | None = None, values: bool = False
) -> Way:
    """Codes carried by a match, folded by thresholds or not."""
    name = f"{matcher.name}, values kept" if values else f"{matcher.name}, {'folded' if folded else 'unfolded'}"

    def at(suite: Suite, source: Site, target: Site) -> Shortcut:
        match = matcher.match(suite, source, target)
        return _decoded(target, carried(suite, match, folded=folded, thresholds=thresholds, values=values))

    return Way(name, at)


def mixture(matcher: Matcher, quantile: float, thresholds: Thresholds | None = None) -> Way:
    """The nearest share of the latents by the match, the others by the earlier decoder."""

    def at(suite: Suite, source: Site, target: Site) -> Shortcut:
        return _decoded(target, mixed(suite, matcher.match(suite, source, target), quantile, thresholds=thresholds))

    return Way(f"{matcher.name}, nearest {quantile:.0%}", at)


def usual(weights: Weights = "all", thresholds: Thresholds | None = None, approximate: bool = False) -> list[Way]:
    """Controls, permutation and top-1 cosine, both folded and unfolded: in matching (permutation) and on the way."""
    permutations = [
        Permutation(weights, folded, approximate, thresholds=thresholds if folded else None) for folded in (True, False)
    ]
    return [
        *controls(),
        *(Way(f"permutation, {'folded' if one.folded else 'unfolded'}", _at(one, thresholds)) for one in permutations),
        through(Cosine(), thresholds=thresholds),
        through(Cosine(), folded=False),
    ]


def valued(pairs: Sequence[Pair], most: int = 5, thresholds: Thresholds | None = None) -> list[Way]:
    """Cosines of the k nearest kept as the entries of T, for each k and each pair of rows."""
    return [
        through(WeightCosine(pair, k), thresholds=thresholds, values=True) for pair in pairs for k in range(1, most + 1)
    ]


def _at(matcher: Permutation, thresholds: Thresholds | None) -> Callable[[Suite, Site, Site], Shortcut]:
    return through(matcher, folded=matcher.folded, thresholds=thresholds).at


def _decoded(place: Site, decoder: Carried) -> Shortcut:
    return Shortcut(place, lambda given: decoder.decode(given.codes))
