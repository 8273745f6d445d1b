"""From which score a latent counts as matched: published cuts, cuts from chance, cuts that predict co-activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.disk import digest
from monosem.evaluation.match import products
from monosem.flow.direction import Direction
from monosem.flow.suite import Suite
from monosem.shapes import InputError, Site

PUBLISHED = {"resid": 0.5, "mlp": 0.25, "attn": 0.25}
"""Of the printed graphs (arXiv 2502.03032, section 3.3), by kind of parent as in `Suite.before`."""
STEERING = {"resid": 0.5, "mlp": 0.15, "attn": 0.15}
"""Of graphs for activation steering (arXiv 2502.03032, appendix B.2)."""
QUANTILE = 0.999
DRAWS = 4096


@dataclass(frozen=True)
class Cuts:
    """The cut of each parent of a site: the greater of a `fixed` one and the null quantile of the parent's dictionary.

    Without `quantile` the fixed ones alone (a parent without one has 0), without `fixed` chance alone. Those in `exact`
    are used as they are.
    """

    fixed: Mapping[str, float] = field(default_factory=lambda: dict(PUBLISHED))
    quantile: float | None = QUANTILE
    seed: int = 0
    exact: Mapping[str, float] = field(default_factory=dict)
    _null: dict[tuple[str, str], float] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in (*self.fixed, *self.exact):
            if name not in PUBLISHED:
                raise InputError(f"no parent is called {name!r}: expected {', '.join(PUBLISHED)}")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise InputError(f"quantile {self.quantile}: give one between 0 and 1, such as {QUANTILE}")

    def of(self, suite: Suite, site: Site) -> dict[str, float]:
        """By parent as `Suite.before` names them."""
        return {name: self.at(suite, name, parent) for name, parent in suite.before(site).items()}

    def at(self, suite: Suite, name: str, parent: Site) -> float:
        """Of one parent, at whichever site it is found."""
        if name in self.exact:
            return self.exact[name]
        return max(self.fixed.get(name, 0.0), self._chance(suite, parent))

    def _chance(self, suite: Suite, site: Site) -> float:
        if self.quantile is None:
            return 0.0
        key = (str(site), suite.hash(site))
        if key not in self._null:
            self._null[key] = null_cut(suite.direction(site), self.quantile, self.seed)
        return self._null[key]


@torch.no_grad()
def null_cut(direction: Direction, quantile: float = QUANTILE, seed: int = 0) -> float:
    """The quantile of the greatest cosine between a random unit vector and this dictionary, from 4,096 draws."""
    unit = direction.unit[~direction.dead]
    if not len(unit):
        return 0.0
    # Not the numbers that an autoencoder of the same seed started from.
    drawing = torch.Generator().manual_seed(int(digest(["null cut", seed], 12), 16))
    drawn = torch.randn(DRAWS, unit.shape[1], generator=drawing).to(unit)
    best = torch.cat([block.amax(1) for _, block in products(drawn / drawn.norm(dim=1, keepdim=True), unit)])
    return float(best.quantile(quantile))


class Youden(NamedTuple):
    """The cut with the greatest J = sensitivity + specificity − 1, and both there; scores at the cut count as high."""

    cut: float
    sensitivity: float
    specificity: float

    @property
    def informedness(self) -> float:
        """J, 0 at chance and 1 where the cut tells all."""
        return self.sensitivity + self.specificity - 1


def youden(scores: Float[Tensor, " N"], active: Bool[Tensor, " N"]) -> Youden:
    """The cut of `scores` that best tells which matches were active; of equally good ones the lowest.

    Raises `InputError` where all were active or none was.
    """
    positives = int(active.sum())
    if not 0 < positives < len(active):
        raise InputError(f"{positives} of {len(active)} matches were active: a cut needs some that were and some not")
    order = scores.double().argsort(descending=True)
    ranked, hits = scores.double()[order], active[order].double().cumsum(0)
    above = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    last = torch.cat([ranked[1:] != ranked[:-1], torch.ones(1, dtype=torch.bool)])
    sensitivity = (hits / positives)[last]
    specificity = (1 - (above - hits) / (len(active) - positives))[last]
    index = sensitivity + specificity
    best = int((index >= index.max() - 1e-12).nonzero()[-1])
    return Youden(float(ranked[last][best]), float(sensitivity[best]), float(specificity[best]))
