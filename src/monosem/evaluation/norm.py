"""Norms of activations and reconstructions."""

from __future__ import annotations

from monosem.evaluation.batch import Batch
from monosem.evaluation.ratio import Sums


def l2_norm_in(batch: Batch) -> Sums:
    """mean_t ‖x_t‖."""
    return Sums(batch.x.norm(dim=1).sum(), batch.rows)


def l2_norm_out(batch: Batch) -> Sums:
    """mean_t ‖x̂_t‖."""
    return Sums(batch.recon.norm(dim=1).sum(), batch.rows)


def l2_ratio(batch: Batch) -> Sums:
    """mean_t ‖x̂_t‖ / ‖x_t‖; as in SAEBench a norm below 1e-4 counts as 1."""
    norm = batch.x.norm(dim=1)
    return Sums((batch.recon.norm(dim=1) / norm.where(norm >= 1e-4, 1.0)).sum(), batch.rows)
