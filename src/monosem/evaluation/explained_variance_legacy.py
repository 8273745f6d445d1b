"""Explained variance as SAEBench's paper and Neuronpedia print it: a mean of per-token ratios."""

from __future__ import annotations

from monosem.evaluation.batch import Batch
from monosem.evaluation.ratio import Sums


def explained_variance_legacy(batch: Batch) -> Sums:
    """mean_t [1 − ‖e_t‖² / ‖x_t − mean of the batch‖²]; depends on how tokens are split into batches.

    A token that equals its batch's mean has no ratio and is left out.
    """
    defined = batch.squared_distance > 0
    ratio = batch.squared_error[defined] / batch.squared_distance[defined]
    return Sums((1 - ratio).sum(), defined.sum())
