"""How evenly activations fall on token types: what can be said of a feature without anybody reading it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

DRAWS = 8


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
    """The mean entropy in bits of so many tokens drawn at random, for each size."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(types), generator=generator) for _ in range(DRAWS)]
    known: dict[int, float] = {}
    for size in set(sizes):
        drawn = [torch.bincount(types.cpu()[order[:size]], minlength=int(types.max()) + 1) for order in orders]
        known[size] = float(unit_entropy(torch.stack(drawn, dim=1).float()).mean())
    return np.array([known[size] for size in sizes])
