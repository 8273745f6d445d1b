"""How evenly activations fall on token types: what can be said of a feature without anybody reading it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

_REACH = 12
"""Standard deviations around the mean of a count beyond which nothing is added up."""


def unit_entropy(counted: Float[Tensor, "V U"]) -> Float64[Tensor, " U"]:
    """−Σ p log₂ p over token types, p a type's share of a unit's activations; 0 for a silent unit."""
    total = counted.sum(0).double()
    # Σ p log p = Σ c log c / C − log C, and c log c is 0 where c is.
    inner = torch.special.entr(counted.double()).sum(0) / total.clamp_min(1)
    return torch.where(total > 0, (inner + total.clamp_min(1).log()) / np.log(2), 0.0)


def chance_entropy(types: Int[Tensor, " N"]) -> tuple[np.ndarray, np.ndarray]:
    """Log₂ of sizes, and the mean entropy of as many tokens drawn at random: what a unit without meaning has."""
    sizes = [min(1 << power, len(types)) for power in range(4, len(types).bit_length() + 1)]
    sizes = sorted(set(sizes))
    return np.log2(sizes), random_entropy(types, sizes)


def random_entropy(types: Int[Tensor, " N"], sizes: Sequence[int]) -> np.ndarray:
    """The expected entropy in bits of so many different tokens drawn at random, for each size, exactly.

    How often a type with m of the N tokens comes among n is hypergeometric, so E[−Σ p log₂ p] is a sum over m and c of
    C(m, c) C(N − m, n − c) / C(N, n) · −(c/n) log₂(c/n).
    """
    counts, often = np.unique(np.bincount(types.cpu().numpy()), return_counts=True)
    log_factorial = torch.lgamma(torch.arange(len(types) + 1, dtype=torch.float64) + 1).numpy()
    known = {size: _expected(counts, often, log_factorial, size) for size in set(sizes)}
    return np.array([known[size] for size in sizes])


def _expected(counts: np.ndarray, often: np.ndarray, log_factorial: np.ndarray, n: int) -> float:
    total = len(log_factorial) - 1
    share = counts / total
    spread = np.sqrt(n * share * (1 - share) * (total - n) / max(total - 1, 1))
    reach = _REACH * (spread + 1)
    low = np.maximum(np.floor(n * share - reach), np.maximum(1, counts - (total - n))).astype(np.int64)
    high = np.minimum(np.ceil(n * share + reach), np.minimum(counts, n)).astype(np.int64)
    width = np.maximum(high - low + 1, 0)
    m, weight, start = (np.repeat(one, width) for one in (counts, often, low))
    c = start + np.arange(len(m)) - np.repeat(width.cumsum() - width, width)

    def choose(a: Any, b: Any) -> Any:
        return log_factorial[a] - log_factorial[b] - log_factorial[a - b]

    chance = np.exp(choose(m, c) + choose(total - m, n - c) - choose(total, n))
    return float((weight * chance * (c / n) * (np.log2(n) - np.log2(c))).sum())
