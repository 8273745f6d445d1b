"""Explained variance of one autoencoder at smaller budgets k, from one pass (arXiv 2505.24473)."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from monosem.evaluation.batch import Batch
from monosem.sae import SAE
from monosem.sae.function import decode
from monosem.shapes.codes import Codes


def budgets(most: int) -> list[int]:
    """Powers of two up to `most`, and `most`: every k costs 4 (most = 32) to 27 (128) times as much."""
    return sorted({1 << power for power in range(most.bit_length())} | {most})


class PerK:
    """Squared error and L0 when only the k strongest latents of each token are kept, for every budget k.

    In the scaled space r_0 = s·x − b_dec and r_k = r_(k−1) − v_k · W_dec[index_k]; ‖x − x̂_k‖² = ‖r_k‖² / s².
    Needs fixed codes, which are sorted by value. Memory is that of r: B·D.
    """

    def __init__(self, sae: SAE) -> None:
        self._sae = sae
        self._budgets: list[int] = []
        self._errors = self._active = torch.zeros(0, dtype=torch.float64)
        self._tokens = 0

    def update(self, batch: Batch) -> None:
        """Ragged and dense codes have no ranks and are passed over."""
        if batch.codes.indices is None or batch.codes.offsets is not None:
            return
        if not self._budgets:
            self._budgets = budgets(batch.codes.values.shape[1])
            self._errors = self._active = torch.zeros(len(self._budgets), dtype=torch.float64)
        ranks = torch.tensor(self._budgets) - 1
        self._errors = self._errors + squared_errors(self._sae, batch, self._budgets)
        self._active = self._active + batch.codes.active.sum(0).cumsum(0).cpu()[ranks]
        self._tokens += batch.rows

    def compute(self, variation: float) -> list[dict[str, int | float]]:
        """One row a budget; `variation` is Σ‖x − mean‖² over the same tokens. Empty without ranks."""
        explained = (1 - self._errors / variation).tolist()
        l0 = (self._active / max(self._tokens, 1)).tolist()
        return [{"k": k, "explained_variance": ev, "l0": mean} for k, ev, mean in zip(self._budgets, explained, l0)]


@torch.no_grad()
def squared_errors(sae: SAE, batch: Batch, at: list[int]) -> Float64[Tensor, " J"]:
    """Σ_t ‖x − x̂_k‖² for each ascending k in `at`, adding the ranks between two budgets at once."""
    residual = batch.x.to(sae.W_dec.dtype) * sae.scale - sae.b_dec
    errors = []
    for low, high in zip([0, *at], at):
        residual -= decode(_ranks(batch.codes, low, high), sae.W_dec)
        errors.append(residual.square().sum(1).sum(dtype=torch.float64))
    return torch.stack(errors).cpu() / sae.scale**2


def _ranks(codes: Codes, low: int, high: int) -> Codes:
    assert codes.indices is not None
    return replace(codes, values=codes.values[:, low:high], indices=codes.indices[:, low:high])
