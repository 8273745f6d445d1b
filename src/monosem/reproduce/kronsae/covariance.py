"""Block covariances, hidden structure with known answers, and the size of a spectrum (arXiv 2505.22255, toy)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

FLOOR = 1e-4
"""Least eigenvalue after the projection: a Cholesky factor exists."""


class Setup(NamedTuple):
    """Blocks of features: bounds of their sizes and correlations; `links` pairs of blocks are correlated too."""

    name: str
    seed: int
    links: int
    sizes: tuple[int, int] = (4, 48)
    inside: tuple[float, float] = (0.6, 0.95)
    across: tuple[float, float] = (0.2, 0.6)


EQUAL = Setup("equal", 0, links=0, sizes=(8, 8), inside=(0.8, 0.8))
"""Independent blocks of 8, all alike: no structure between blocks, none within beyond one number."""

# The last four were chosen, among seeds 0..300, for an effective rank near the paper's 15.3; nothing was trained.
SETUPS = (
    *(Setup(f"wide_{seed}", seed, links=6) for seed in range(4)),
    *(Setup(f"narrow_{seed}", seed, links=20) for seed in (7, 10, 13, 32)),
)


def block_covariance(setup: Setup, n: int = 256) -> Float64[Tensor, "F F"]:
    """A positive definite matrix with unit diagonal, from blocks of constant correlation."""
    generator = np.random.default_rng(setup.seed)
    block = _blocks(setup.sizes, n, generator)
    count = block[-1] + 1
    between = np.diag(generator.uniform(*setup.inside, count))
    first, second = np.tril_indices(count, -1)
    linked = generator.permutation(len(first))[: setup.links]
    between[first[linked], second[linked]] = generator.uniform(*setup.across, len(linked))
    between = np.maximum(between, between.T)
    covariance = between[np.ix_(block, block)]
    np.fill_diagonal(covariance, 1)
    return _positive(torch.from_numpy(covariance))


def _blocks(sizes: tuple[int, int], n: int, generator: np.random.Generator) -> Int[np.ndarray, " F"]:
    """The block of every feature; the last block takes what is left."""
    drawn: list[int] = []
    while sum(drawn) < n:
        drawn.append(min(int(generator.integers(sizes[0], sizes[1] + 1)), n - sum(drawn)))
    return np.repeat(np.arange(len(drawn)), drawn)


def _positive(matrix: Float64[Tensor, "F F"]) -> Float64[Tensor, "F F"]:
    """Eigenvalues raised to at least `FLOOR`, then scaled to unit diagonal again."""
    values, vectors = torch.linalg.eigh(matrix)
    matrix = (vectors * values.clamp_min(FLOOR)) @ vectors.T
    deviation = matrix.diag().sqrt()
    return matrix / deviation.outer(deviation)


def effective_rank(matrix: Float64[Tensor, "F F"]) -> float:
    """exp(−Σ p ln p) for the eigenvalues' shares p; a matrix with r equal eigenvalues has r."""
    return float(torch.special.entr(_shares(matrix)).sum().exp())


def participation_ratio(matrix: Float64[Tensor, "F F"]) -> float:
    """tr(S)² / tr(S²)."""
    return float(matrix.trace().square() / matrix.square().sum())


def trace_ratio(matrix: Float64[Tensor, "F F"]) -> float:
    """tr(S) / largest eigenvalue."""
    return float(1 / _shares(matrix)[-1])


def mean_correlation(matrix: Float64[Tensor, "F F"]) -> float:
    """Mean |S_ij| / sqrt(S_ii S_jj) over i ≠ j; a feature without variance correlates with none."""
    deviation = matrix.diag().sqrt()
    deviation = torch.where(deviation > 0, deviation, torch.inf)
    correlation = (matrix / deviation.outer(deviation)).abs()
    return float((correlation.sum() - correlation.trace()) / (len(matrix) * (len(matrix) - 1)))


def _shares(matrix: Float64[Tensor, "F F"]) -> Float64[Tensor, " F"]:
    values = torch.linalg.eigvalsh(matrix).clamp_min(0)
    return values / values.sum()
