"""Explained variance as dictionary_learning prints it: blind to a constant offset of the reconstruction."""

from __future__ import annotations

from monosem.evaluation.batch import Batch
from monosem.evaluation.ratio import Sums


def ev_centered_residual(batch: Batch) -> Sums:
    """1 − Σ_d Var(e_d) / Σ_d Var(x_d) of each batch, averaged over batches.

    A batch without variation is left out.
    """
    variation = batch.squared_distance.sum().item()
    if variation == 0:
        return Sums(0, 0)
    centred = batch.residual - batch.residual.mean(0)
    return Sums(1 - centred.square().sum().item() / variation, 1)
