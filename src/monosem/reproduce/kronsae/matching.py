"""Which learned row is which feature: the permutation that aligns two Gram matrices (arXiv 2505.22255, toy)."""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional


def rv(s: Float64[Tensor, "F F"], c: Float64[Tensor, "F F"]) -> float:
    """RV = tr(SC) / sqrt(tr(S²) tr(C²)): the cosine of two symmetric matrices."""
    return float((s * c).sum() / (s.square().sum() * c.square().sum()).sqrt())


def permuted(c: Float64[Tensor, "F F"], order: Int[Tensor, " F"]) -> Float64[Tensor, "F F"]:
    """Rows and columns of `c` in another order."""
    return c[order][:, order]


def match(
    a: Float64[Tensor, "F F"], b: Float64[Tensor, "F F"], *, starts: int = 10, seed: int = 0
) -> Int[Tensor, " F"]:
    """The order of `b` that makes Σ a ∘ b largest, of the uniform start and `starts` random ones; then pair swaps.

    Both matrices are positive semidefinite. A local optimum: the problem is quadratic assignment.
    """
    generator, n = torch.Generator().manual_seed(seed), len(a)
    uniform = torch.full((n, n), 1 / n, dtype=torch.float64)
    begin = [a @ uniform @ b] + [a @ b[torch.randperm(n, generator=generator)] for _ in range(starts)]
    orders = [frank_wolfe(a, b, slope) for slope in begin]
    return _swapped(a, b, max(orders, key=lambda order: _agreement(a, b, order)))


def assigned(points: Float64[Tensor, "F D"], rows: Float64[Tensor, "F D"]) -> Int[Tensor, " F"]:
    """The order of `rows` that makes the sum of cosines with `points` largest: exact, where both share a space."""
    cosines = functional.normalize(points, dim=1) @ functional.normalize(rows, dim=1).T
    return torch.from_numpy(linear_sum_assignment(cosines.numpy(), maximize=True)[1])


def _agreement(a: Tensor, b: Tensor, order: Tensor) -> float:
    return float((a * permuted(b, order)).sum())


def frank_wolfe(a: Tensor, b: Tensor, slope: Float64[Tensor, "F F"]) -> Int[Tensor, " F"]:
    """Maximise tr(Pᵀ A P B) over doubly stochastic P, from half the gradient A P B at the start.

    With A and B positive semidefinite the objective is convex, so the best step is always the whole one: each
    iterate after the first is a permutation, and the walk ends when the next is no better.
    """
    best, order = -torch.inf, torch.empty(0, dtype=torch.int64)
    while True:
        found = torch.from_numpy(linear_sum_assignment(slope.numpy(), maximize=True)[1])
        agreement = _agreement(a, b, found)
        if agreement <= best:
            return order
        best, order = agreement, found
        slope = a @ b[order]


def _swapped(a: Tensor, b: Tensor, order: Int[Tensor, " F"]) -> Int[Tensor, " F"]:
    """Exchange the best pair of places until no exchange helps."""
    order = order.clone()
    least = 1e-9 * float(a.abs().max() * b.abs().max())
    while True:
        gains = swap_gains(a, permuted(b, order))
        r, s = divmod(int(gains.argmax()), len(a))
        if gains[r, s] <= least:
            return order
        order[[r, s]] = order[[s, r]]


def swap_gains(a: Float64[Tensor, "F F"], b: Float64[Tensor, "F F"]) -> Float64[Tensor, "F F"]:
    """Entry (r, s): what Σ a ∘ b gains when rows and columns r and s of `b` are exchanged."""
    own, other = a.diag()[:, None], b.diag()[:, None]
    product = a @ b
    full = product + product.T - product.diag()[:, None] - product.diag()
    # `full` sums over every k; its terms k = r and k = s are taken out, for there the diagonal meets itself.
    term = (own - a) * (b - other)
    return 2 * (full - term - term.T) + (own - own.T) * (other.T - other)
