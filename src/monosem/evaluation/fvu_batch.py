"""Fraction of variance unexplained as sparsify's loss has it: about each batch's own mean."""

from __future__ import annotations

from monosem.evaluation.batch import Batch
from monosem.evaluation.ratio import Sums


def fvu_batch(batch: Batch) -> Sums:
    """Σ‖e‖² / Σ‖x − mean of the batch‖² of each batch, averaged over batches.

    A batch without variation is left out.
    """
    variation = batch.squared_distance.sum().item()
    if variation == 0:
        return Sums(0, 0)
    return Sums(batch.squared_error.sum().item() / variation, 1)
