"""Matching by the correlation of activations, the baseline that needs data (arXiv 2502.03032, appendix C.4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.sparse import csr_array
from torch import Tensor

from monosem.flow.firing import Firing
from monosem.flow.greatest import Greatest
from monosem.flow.match import Match
from monosem.flow.suite import Suite
from monosem.shapes import InputError, Site

LEAST = 10
"""Tokens on which two latents have to be active together before their correlation counts."""
_BLOCK = 1 << 23


@dataclass(frozen=True)
class Pearson:
    """The k latents of greatest positive correlation r over aligned tokens, both inactive ones included.

    r = (n Sxy − Sx Sy) / √((n Sxx − Sx²)(n Syy − Sy²)). Pairs that are active together on fewer than `least` tokens
    do not count.
    """

    firing: Firing = field(repr=False)
    k: int = 1
    least: int = LEAST

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"k = {self.k} matches nothing: give at least 1")

    @property
    def name(self) -> str:
        return "pearson" if self.k == 1 else f"pearson top {self.k}"

    def match(self, suite: Suite, source: Site, target: Site, latents: Int64[Tensor, " S"] | None = None) -> Match:
        """Raises `InputError` where one of the sites was not encoded."""
        asked = suite.latents(source, latents)
        width = suite.n_latents(target)
        found = Greatest.empty(len(asked), min(self.k, width))
        for part, r in correlations(self.firing, source, target, asked, self.least):
            found.put(part, Greatest.of(torch.from_numpy(r), self.k))
        return Match(source, target, self.name, asked, *found, width)


def correlations(
    firing: Firing, source: Site, target: Site, latents: Int64[Tensor, " S"], least: int = LEAST
) -> Iterator[tuple[slice, Float64[np.ndarray, "P F"]]]:
    """r of some latents of one site with all of another, part by part in float64; −∞ where it is not defined.

    The cross product is one of sparse matrices: work in proportion to the pairs of entries on the same token.
    """
    x, marks = firing.matrix(source), firing.matrix(source, binary=True)
    y = firing.matrix(target)
    across = y.transpose().tocsr()
    together = firing.matrix(target, binary=True).transpose().tocsr()
    own, other = _Sums.of(x), _Sums.of(y)
    n, chosen = firing.n_tokens, latents.numpy()
    step = max(1, _BLOCK // len(other.x))
    for start in range(0, len(chosen), step):
        part = slice(start, min(start + step, len(chosen)))
        rows = chosen[part]
        r = (x[rows] @ across).toarray()
        r *= n
        r -= np.outer(own.x[rows], other.x)
        with np.errstate(divide="ignore", invalid="ignore"):
            r /= np.sqrt(own.variation(n)[rows])[:, None]
            r /= np.sqrt(other.variation(n))
        r[(marks[rows] @ together).toarray() < least] = -np.inf
        r[~np.isfinite(r)] = -np.inf
        yield part, r


class _Sums(NamedTuple):
    """Sx and Sxx of each latent."""

    x: np.ndarray
    xx: np.ndarray

    @classmethod
    def of(cls, matrix: csr_array) -> _Sums:
        return cls(np.asarray(matrix.sum(1)).ravel(), np.asarray(matrix.power(2).sum(1)).ravel())

    def variation(self, n: int) -> np.ndarray:
        """n Sxx − Sx²."""
        return n * self.xx - self.x**2
