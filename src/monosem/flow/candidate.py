"""An approximate assignment: among a few nearest candidates of each row, then among what is left."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from monosem.evaluation.match import Pairs, assignment, products


def assignment_among(a: Float32[Tensor, "A D"], b: Float32[Tensor, "B D"], candidates: int = 256) -> Pairs:
    """min(A, B) pairs with a great sum of inner products, from the `candidates` largest of each row of the smaller.

    The greatest sum of candidates, a row without one counting as 0; such rows then share what is left, exactly. Memory
    is that of the candidates, and of a dense assignment of the rows that are left.
    """
    if len(a) > len(b):
        back = assignment_among(b, a, candidates)
        order = back.b.argsort()
        return Pairs(back.b[order], back.a[order], back.cosine[order])
    value, column = _nearest(a, b, min(candidates, len(b)))
    found = _among(value, column, len(b))
    free_a = (found < 0).nonzero().flatten()
    if len(free_a):
        taken = torch.zeros(len(b), dtype=torch.bool)
        taken[found[found >= 0]] = True
        free_b = (~taken).nonzero().flatten()
        rest = assignment(a[free_a], b[free_b])
        found[free_a[rest.a]] = free_b[rest.b]
    return Pairs(torch.arange(len(a)), found, (a * b[found]).sum(1))


def _nearest(a: Tensor, b: Tensor, k: int) -> tuple[Float32[Tensor, "A k"], Int64[Tensor, "A k"]]:
    value, column = torch.empty(len(a), k), torch.empty(len(a), k, dtype=torch.int64)
    for part, block in products(a, b):
        value[part], column[part] = block.topk(k)
    return value, column


def _among(value: Float32[Tensor, "A k"], column: Int64[Tensor, "A k"], width: int) -> Int64[Tensor, " A"]:
    """The candidate of each row, −1 where it is left without one."""
    rows, k = value.shape
    weight = value.flatten().double()
    # scipy reads a weight of exactly 0 as no edge, so all are moved above it: each row has one, so by the same amount.
    shift = 1 - min(float(weight.min()), 0.0)
    own = torch.arange(rows)
    weights = torch.cat([weight, torch.zeros(rows, dtype=torch.float64)]) + shift
    places = (
        torch.cat([own.repeat_interleave(k), own]).numpy(),
        torch.cat([column.flatten(), width + own]).numpy(),
    )
    graph = coo_array((weights.numpy(), places), shape=(rows, width + rows)).tocsr()
    _, chosen = min_weight_full_bipartite_matching(graph, maximize=True)
    chosen = chosen.astype(np.int64)
    return torch.from_numpy(np.where(chosen < width, chosen, -1))
