"""A quotient of sums over batches, and its standard error: the accumulator behind most metrics."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Sums(NamedTuple):
    """What one batch adds: a mean over tokens has their number as denominator."""

    num: float | Tensor
    den: float | Tensor


class Figure(NamedTuple):
    """A value and its standard error; the error is None where it is not defined, such as for one batch."""

    value: float
    error: float | None = None


class Ratio:
    """Σ num / Σ den over all batches, in float64.

    The standard error is the linearised ratio estimator: with r_b = num_b − ratio·den_b over n batches,
    SE = sqrt(n/(n−1) · Σ r_b²) / |Σ den_b|. For a mean over batches of equal size this is the usual s/√n.
    Batches are taken as independent draws; neighbouring windows of one document are not quite that.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[float, float]] = []

    def update(self, sums: Sums) -> None:
        self.batches.append((float(sums.num), float(sums.den)))

    def compute(self) -> Figure:
        num, den = np.array(self.batches, dtype=np.float64).reshape(-1, 2).T
        return quotient(num, den)


def quotient(num: np.ndarray, den: np.ndarray) -> Figure:
    """The figure of per-batch numerators [N] and denominators [N]; NaN when the denominators sum to 0."""
    total = float(den.sum())
    if total == 0:
        return Figure(math.nan)
    value, n = float(num.sum()) / total, len(num)
    if n < 2:
        return Figure(value)
    rest = num - value * den
    return Figure(value, math.sqrt(n / (n - 1) * float(rest @ rest)) / abs(total))
