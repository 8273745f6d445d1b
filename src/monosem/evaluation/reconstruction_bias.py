"""Relative reconstruction bias: whether reconstructions are systematically too short."""

from __future__ import annotations

from monosem.evaluation.batch import Batch
from monosem.evaluation.ratio import Sums


def relative_reconstruction_bias(batch: Batch) -> Sums:
    """γ = E‖x̂‖² / E[x·x̂] (arXiv 2404.16014, eq. 10): x̂/γ is the best rescaling; below 1 means shrinkage."""
    return Sums(batch.recon.square().sum(), (batch.x * batch.recon).sum())
