"""How many latents are active on a token: mean, quantiles and histogram."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from monosem.evaluation.batch import Batch
from monosem.evaluation.ratio import Sums

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BINS = 50


def l0(batch: Batch) -> Sums:
    """mean_t #(f ≠ 0)."""
    return Sums(batch.codes.l0().sum(), batch.rows)


class L0Distribution:
    """Exact counts of tokens by their number of active latents."""

    def __init__(self, n_latents: int) -> None:
        self._counts = torch.zeros(n_latents + 1, dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        self._counts += torch.bincount(batch.codes.l0(), minlength=len(self._counts)).cpu()

    def quantiles(self) -> dict[str, float]:
        """`l0_q05` … `l0_q95`: the smallest L0 that at least this share of tokens does not exceed."""
        below = self._counts.cumsum(0)
        targets = torch.tensor(QUANTILES, dtype=torch.float64) * below[-1]
        found = torch.searchsorted(below.double(), targets)
        return {f"l0_q{round(100 * q):02}": float(at) for q, at in zip(QUANTILES, found.tolist())}

    def histogram(self) -> list[dict[str, int]]:
        """At most 50 bins from the least to the greatest L0, bounds included: single numbers as long as they fit.

        Further bins grow by a constant factor, so that a long tail does not blur the part most tokens are in.
        """
        seen = self._counts.nonzero().flatten()
        first, last = int(seen[0]), int(seen[-1])
        edges = _edges(first, last + 1)
        return [
            {"low": low, "high": stop - 1, "tokens": int(self._counts[low:stop].sum())} for low, stop in pairwise(edges)
        ]


def _edges(first: int, stop: int) -> list[int]:
    """Whole numbers from `first` to `stop`, each at least one more than the last, at equal steps of their logarithm."""
    steps = np.geomspace(max(first, 1), stop, _BINS + 1).round().astype(int).tolist()
    if stop - first <= _BINS:
        return list(range(first, stop + 1))
    return sorted({first, *steps})
