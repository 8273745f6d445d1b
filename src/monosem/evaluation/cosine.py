"""Cosine between an activation and its reconstruction."""

from __future__ import annotations

from torch.nn import functional

from monosem.evaluation.batch import Batch
from monosem.evaluation.ratio import Sums


def cossim(batch: Batch) -> Sums:
    """mean_t cos(x_t, x̂_t); 0 for a token whose reconstruction is 0."""
    return Sums(functional.cosine_similarity(batch.x, batch.recon, dim=1).sum(), batch.rows)
