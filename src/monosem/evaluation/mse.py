"""Mean squared error."""

from __future__ import annotations

from monosem.evaluation.batch import Batch
from monosem.evaluation.ratio import Sums


def mse(batch: Batch) -> Sums:
    """mean_t ‖e_t‖²: summed over dimensions, averaged over tokens."""
    return Sums(batch.squared_error.sum(), batch.rows)
